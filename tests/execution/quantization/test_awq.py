"""AWQ's two layouts read back, against float64 arithmetic on what was packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.awq import Awq
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.self_attn.o_proj"
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
OUTPUTS, INPUTS = 16, 256


class Packed:
    """A random layer as AutoAWQ stores it."""

    def __init__(self, layout: str = "gemm", group: int = 128, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.layout, self.group = layout, group
        groups = INPUTS // group
        self.codes = random.integers(0, 16, (OUTPUTS, INPUTS))
        self.zeros = random.integers(0, 16, (OUTPUTS, groups))
        self.scales = random.uniform(0.001, 0.1, (OUTPUTS, groups)).astype(np.float16)

    def config(self, **extra: Any) -> dict[str, Any]:
        base = {"quant_method": "awq", "bits": 4, "group_size": self.group, "zero_point": True}
        return base | {"version": self.layout} | extra

    def tensors(self) -> dict[str, Tensor]:
        if self.layout == "gemm":
            qweight, qzeros = packed(self.codes.T, ORDER), packed(self.zeros.T, ORDER)
            scales = self.scales.T
        else:
            width = zeros_width(INPUTS, self.group)
            zeros = np.zeros((OUTPUTS, width * 8), np.int64)
            zeros[:, : self.zeros.shape[1]] = self.zeros
            scales = np.zeros((OUTPUTS, width * 8), np.float16)
            scales[:, : self.scales.shape[1]] = self.scales
            qweight, qzeros = packed(self.codes, range(8)), packed(zeros, range(8))
        return {
            f"{LAYER}.qweight": qweight,
            f"{LAYER}.qzeros": qzeros,
            f"{LAYER}.scales": torch.from_numpy(np.ascontiguousarray(scales)),
        }

    def meaning(self) -> Tensor:
        wide = (np.repeat(x, self.group, 1) for x in (self.zeros, self.scales.astype(np.float64)))
        zeros, scales = wide
        return torch.from_numpy((self.codes - zeros) * scales)


def packed(rows: Any, order: Any) -> Tensor:
    """AutoAWQ's loop: place i of a word holds code order[i]."""
    out = np.zeros((rows.shape[0], rows.shape[1] // 8), np.uint32)
    for place, code in enumerate(order):
        out |= rows[:, code::8].astype(np.uint32) << np.uint32(4 * place)
    return torch.from_numpy(out.view(np.int32))


def zeros_width(inputs: int, group: int) -> int:
    """AutoAWQ's calculate_zeros_width."""
    multiple = {128: 1, 64: 2, 32: 4}[group]
    base = -(-(inputs // group) // 8)
    return -(-base // multiple) * multiple


@settings(deadline=None, max_examples=40)
@given(
    layout=st.sampled_from(["gemm", "gemv"]),
    group=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 2**32),
)
def test_both_layouts_mean_what_was_packed(**variant: Any) -> None:
    layer = Packed(**variant)
    form = Awq(layer.config())
    scheme = form.scheme(LAYER)
    assert scheme is not None and scheme.group == layer.group and scheme.offset
    weight = form.canonical(LAYER, layer.tensors())
    check_weight(LAYER, weight, scheme, OUTPUTS, INPUTS)
    torch.testing.assert_close(
        dequantize(weight, scheme).double(), layer.meaning(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_or_short_part_is_named(part: str) -> None:
    layer = Packed()
    tensors = layer.tensors()
    name = f"{LAYER}.{part}"
    scheme = Awq(layer.config()).scheme(LAYER)
    assert scheme is not None
    for change in (None, tensors[name][:1], tensors[name].double()):
        broken = {key: value for key, value in tensors.items() if key != name}
        if change is not None:
            broken[name] = change
        with pytest.raises(ModelError, match="self_attn.o_proj"):
            weight = Awq(layer.config()).canonical(LAYER, broken)
            check_weight(LAYER, weight, scheme, OUTPUTS, INPUTS)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"bits": 8}, "AWQ with 8 bits, accepted: 4"),
        ({"version": "marlin"}, "'marlin' is not served"),
        ({"group_size": -3}, "group_size is -3"),
        ({"zero_point": 1}, "zero_point is 1"),
        ({"modules_to_not_convert": "lm_head"}, "needs a list"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Awq(Packed().config() | changes)


def test_listed_modules_keep_their_precision() -> None:
    form = Awq(Packed().config(modules_to_not_convert=["self_attn", "lm_head"]))
    assert form.scheme(LAYER) is None and form.scheme("lm_head") is None
    assert form.scheme("model.layers.0.mlp.up_proj") is not None
