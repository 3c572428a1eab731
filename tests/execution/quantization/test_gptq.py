"""GPTQ's packing read back, against float64 arithmetic on what was packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.gptq import Gptq
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"


class Packed:
    """A random layer as GPTQ tools store it, and the numbers it stands for."""

    def __init__(self, **changes: Any) -> None:
        self.bits = changes.get("bits", 4)
        self.group = changes.get("group", 32)
        self.symmetric = changes.get("symmetric", False)
        self.reordered = changes.get("reordered", False)
        self.version = changes.get("version", 1)
        outputs, inputs = changes.get("outputs", 32), changes.get("inputs", 96)
        random = np.random.default_rng(changes.get("seed", 0))
        groups = 1 if self.group == -1 else -(-inputs // self.group)
        top = 2**self.bits
        self.codes = random.integers(0, top, (inputs, outputs))
        self.zeros = random.integers(1, top, (groups, outputs))
        if self.symmetric:
            self.zeros[:] = top // 2
        self.scales = random.uniform(0.001, 0.1, (groups, outputs)).astype(np.float16)
        self.group_of = np.arange(inputs) // (inputs if self.group == -1 else self.group)
        if self.reordered:
            random.shuffle(self.group_of)

    def config(self, **extra: Any) -> dict[str, Any]:
        return {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group,
            "sym": self.symmetric,
            "desc_act": self.reordered,
            "checkpoint_format": "gptq" if self.version == 1 else "gptq_v2",
        } | extra

    def tensors(self) -> dict[str, Tensor]:
        shift = 1 if self.version == 1 else 0
        return {
            f"{LAYER}.qweight": words(self.codes.T, self.bits).T.contiguous(),
            f"{LAYER}.qzeros": words(self.zeros - shift, self.bits),
            f"{LAYER}.scales": torch.from_numpy(self.scales),
            f"{LAYER}.g_idx": torch.from_numpy(self.group_of.astype(np.int32)),
        }

    def meaning(self) -> Tensor:
        """f64[O,I]"""
        zeros, scales = self.zeros[self.group_of], self.scales.astype(np.float64)[self.group_of]
        return torch.from_numpy(((self.codes - zeros) * scales).T)


def words(rows: Any, bits: int) -> Tensor:
    """Rows of codes as rows of 32-bit words, through arbitrary-precision integers."""
    out = []
    for row in rows:
        number = sum(int(code) << (bits * place) for place, code in enumerate(row))
        raw = number.to_bytes(-(-len(row) * bits // 32) * 4, "little")
        out.append(np.frombuffer(raw, np.int32))
    return torch.from_numpy(np.stack(out))


@settings(deadline=None, max_examples=50)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([-1, 32, 48, 64, 96]),
    symmetric=st.booleans(),
    reordered=st.booleans(),
    version=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**32),
)
def test_every_variant_means_what_was_packed(**variant: Any) -> None:
    layer = Packed(**variant)
    form = Gptq(layer.config())
    scheme = form.scheme(LAYER)
    assert scheme is not None and scheme.offset == (not layer.symmetric)
    weight = form.canonical(LAYER, layer.tensors())
    check_weight(LAYER, weight, scheme, 32, 96)
    torch.testing.assert_close(
        dequantize(weight, scheme).double(), layer.meaning(), atol=1e-5, rtol=1e-5
    )


def test_a_zero_point_of_zero_borrows_from_its_neighbour() -> None:
    layer = Packed()
    layer.zeros[0, :4] = [0, 0, 5, 0]
    tensors = layer.tensors()
    # GPTQModel packs the zero points themselves, then takes one from each code of a word at once.
    whole = words(layer.zeros, 4).long() & 0xFFFFFFFF
    less = (whole - 0x11111111) & 0xFFFFFFFF
    tensors[f"{LAYER}.qzeros"] = torch.where(less >= 2**31, less - 2**32, less).to(torch.int32)
    form = Gptq(layer.config())
    weight, scheme = form.canonical(LAYER, tensors), form.scheme(LAYER)
    assert scheme is not None
    torch.testing.assert_close(
        dequantize(weight, scheme).double(), layer.meaning(), atol=1e-5, rtol=1e-5
    )


def without(tensors: dict[str, Tensor], part: str) -> None:
    del tensors[f"{LAYER}.{part}"]


def put(tensors: dict[str, Tensor], part: str, change: Any) -> None:
    tensors[f"{LAYER}.{part}"] = change(tensors[f"{LAYER}.{part}"])


@pytest.mark.parametrize(
    ("layer", "edit", "fault"),
    [
        (Packed(), lambda t: without(t, "qweight"), "up_proj.qweight' is missing"),
        (Packed(), lambda t: without(t, "scales"), "up_proj.scales' is missing"),
        (Packed(), lambda t: without(t, "qzeros"), "up_proj.qzeros' is missing"),
        (Packed(reordered=True), lambda t: without(t, "g_idx"), "up_proj.g_idx' is missing"),
        (Packed(), lambda t: put(t, "qweight", lambda x: x.long()), "dtype torch.int64, needs"),
        (Packed(), lambda t: put(t, "scales", lambda x: x.int()), "dtype torch.int32, needs"),
        (Packed(), lambda t: put(t, "scales", lambda x: x[:2]), "has 2 groups.*need 3"),
        (Packed(), lambda t: put(t, "scales", lambda x: x[:, :8]), "has 32 outputs.*has 8"),
        (Packed(), lambda t: put(t, "qzeros", lambda x: x[:1]), r"shape \[1, 4\].*need \[3, 4\]"),
        (Packed(), lambda t: put(t, "scales", lambda x: x * torch.inf), "scales are not finite"),
        (Packed(symmetric=True), lambda t: put(t, "qzeros", lambda x: x + 1), "off the centre"),
        (Packed(), lambda t: put(t, "g_idx", lambda x: x.flip(0)), "desc_act: false"),
        (
            Packed(reordered=True),
            lambda t: put(t, "g_idx", lambda x: x * 0),
            "unequal numbers of inputs",
        ),
        (Packed(reordered=True), lambda t: put(t, "g_idx", lambda x: x + 1), "names group 3"),
        (Packed(reordered=True), lambda t: put(t, "g_idx", lambda x: x[:5]), "has 5 entries"),
    ],
)
def test_parts_that_contradict_each_other_are_named(layer: Packed, edit: Any, fault: str) -> None:
    tensors = layer.tensors()
    edit(tensors)
    form = Gptq(layer.config())
    scheme = form.scheme(LAYER)
    assert scheme is not None
    with pytest.raises(ModelError, match=fault):
        check_weight(LAYER, form.canonical(LAYER, tensors), scheme, 32, 96)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"bits": 5}, "bits is 5, needs one of 2, 3, 4, 8"),
        ({"bits": None}, "bits"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": "128"}, "group_size is '128'"),
        ({"sym": "yes"}, "sym is 'yes'"),
        ({"checkpoint_format": "marlin"}, "'marlin' is not served.*gptq, gptq_v2"),
        ({"dynamic": {"-:[": {}}}, "no regular expression"),
        ({"dynamic": {"mlp": 8}}, "dynamic is 8"),
        ({"modules_in_block_to_quantize": [[3]]}, "something else than names"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Gptq(Packed().config() | changes)


def test_layers_may_be_left_out_or_have_their_own_numbers() -> None:
    dynamic = {"-:.*down_proj": {}, ".*layers.1.*": {"bits": 8, "group_size": -1}}
    form = Gptq(Packed().config(dynamic=dynamic))
    assert form.scheme("model.layers.0.mlp.down_proj") is None
    assert form.scheme("lm_head") is None
    own = form.scheme("model.layers.1.mlp.up_proj")
    assert own is not None and (own.weight, own.group) == ("int8", 0)
    some = Gptq(Packed().config(modules_in_block_to_quantize=[["self_attn.q_proj"]]))
    assert some.scheme("model.layers.0.self_attn.q_proj") is not None
    assert some.scheme("model.layers.0.mlp.up_proj") is None
