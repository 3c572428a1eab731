"""FP8 checkpoints by tensor and by blocks, against float64 arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.fp8 import Fp8
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"


def layer(rows: int, columns: int, block: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """(tensors of a random layer, what they mean in f64); block 0 = one scale."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=random).to(torch.float8_e4m3fn)
    if not block:
        scale = torch.rand(1, generator=random)
        tensors = {f"{LAYER}.weight": values, f"{LAYER}.weight_scale": scale}
        return tensors, values.double() * scale.double()
    scale = torch.rand(-(-rows // block), -(-columns // block), generator=random)
    wide = scale.double().repeat_interleave(block, 0).repeat_interleave(block, 1)
    tensors = {f"{LAYER}.weight": values, f"{LAYER}.weight_scale_inv": scale}
    return tensors, values.double() * wide[:rows, :columns]


def config(block: int, **extra: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return base | ({"weight_block_size": [block, block]} if block else {}) | extra


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    block=st.sampled_from([0, 16, 32]),
    seed=st.integers(0, 2**32),
)
def test_blocks_and_tensors_mean_what_was_stored(
    rows: int, columns: int, block: int, seed: int
) -> None:
    tensors, meaning = layer(rows, columns, block, seed)
    form = Fp8(config(block))
    scheme = form.scheme(LAYER)
    assert scheme is not None and scheme.group == block and set(form.tensors(LAYER)) == set(tensors)
    weight = form.canonical(LAYER, tensors)
    check_weight(LAYER, weight, scheme, rows, columns)
    torch.testing.assert_close(dequantize(weight, scheme).double(), meaning, atol=1e-6, rtol=1e-6)


def test_a_static_scale_is_read() -> None:
    form = Fp8(config(0, activation_scheme="static"))
    tensors, _ = layer(8, 8, 0)
    tensors[f"{LAYER}.input_scale"] = torch.tensor(0.5)
    weight = form.canonical(LAYER, tensors)
    assert weight.input_scale is not None and weight.input_scale.tolist() == [0.5]
    scheme = form.scheme(LAYER)
    assert scheme is not None and scheme.activation_scale == "static"


def test_codes_that_are_no_numbers_are_refused() -> None:
    form = Fp8(config(0))
    scheme = form.scheme(LAYER)
    assert scheme is not None
    for code in (0x7F, 0xFF):
        tensors, _ = layer(8, 8, 0)
        tensors[f"{LAYER}.weight"].view(torch.uint8)[3, 3] = code
        with pytest.raises(ModelError, match="fp8 codes that are no numbers"):
            check_weight(LAYER, form.canonical(LAYER, tensors), scheme, 8, 8)


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda t: t.pop(f"{LAYER}.weight"), "up_proj.weight' is missing"),
        (lambda t: t.pop(f"{LAYER}.weight_scale_inv"), "weight_scale_inv' is missing"),
        (lambda t: t.update({f"{LAYER}.weight": torch.ones(64, 64)}), "dtype torch.float32, needs"),
        (
            lambda t: t.update({f"{LAYER}.weight_scale_inv": torch.ones(3, 2)}),
            r"shape \[3, 2\], which fits no 64 outputs",
        ),
        (
            lambda t: t.update({f"{LAYER}.weight_scale_inv": torch.ones(2, 5)}),
            r"scales are \[64, 5\], 2 groups need",
        ),
        (
            lambda t: t.update({f"{LAYER}.weight_scale_inv": torch.ones(2, 2, dtype=torch.int8)}),
            "holds no floating-point numbers",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_named(edit: Any, fault: str) -> None:
    tensors, _ = layer(64, 64, 32)
    edit(tensors)
    form = Fp8(config(32))
    scheme = form.scheme(LAYER)
    assert scheme is not None
    with pytest.raises(ModelError, match=fault):
        check_weight(LAYER, form.canonical(LAYER, tensors), scheme, 64, 64)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"fmt": "e5m2"}, "fp8 'e5m2' is not served"),
        ({"activation_scheme": "magic"}, "activation_scheme is 'magic'"),
        ({"weight_block_size": [128]}, "needs two positive numbers"),
        ({"weight_block_size": [0, 128]}, "needs two positive numbers"),
        ({"weight_block_size": [8, 8], "activation_scheme": "static"}, "blocks with static"),
        ({"modules_to_not_convert": {}}, "needs a list"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Fp8(config(0) | changes)


def test_listed_modules_keep_their_precision() -> None:
    form = Fp8(config(0, modules_to_not_convert=["model.layers.0.mlp"], ignored_layers=["q_proj"]))
    assert form.scheme(LAYER) is None
    assert form.scheme("model.layers.5.self_attn.q_proj") is None
    assert form.scheme("model.layers.5.self_attn.k_proj") is not None
