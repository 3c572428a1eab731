"""bitsandbytes' layouts read back, against float64 arithmetic on what was packed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.bitsandbytes import BitsAndBytes
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"
W = f"{LAYER}.weight"
ROWS, COLUMNS, BLOCK = 12, 128, 64


def four_bits(nested: bool, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """(tensors of a random layer, what they mean in f64)."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (ROWS * COLUMNS,), generator=random, dtype=torch.uint8)
    levels = torch.rand(16, generator=random) * 2 - 1
    blocks = ROWS * COLUMNS // BLOCK
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": BLOCK, "shape": [ROWS, COLUMNS]}
    tensors = {
        W: ((codes[0::2] << 4) | codes[1::2])[:, None],
        f"{W}.quant_map": levels,
    }
    if nested:
        absmax = torch.randint(0, 256, (blocks,), generator=random, dtype=torch.uint8)
        table = torch.rand(256, generator=random)
        sizes = torch.rand(2, generator=random)
        state |= {"nested_blocksize": 16, "nested_offset": 0.25}
        tensors |= {
            f"{W}.absmax": absmax,
            f"{W}.nested_absmax": sizes,
            f"{W}.nested_quant_map": table,
        }
        wide = sizes.double().repeat_interleave(16)[:blocks]
        scales = table.double()[absmax.int()] * wide + 0.25
    else:
        tensors[f"{W}.absmax"] = torch.rand(blocks, generator=random)
        scales = tensors[f"{W}.absmax"].double()
    raw = json.dumps(state).encode()
    tensors[f"{W}.quant_state.bitsandbytes__nf4"] = torch.tensor(list(raw), dtype=torch.uint8)
    meaning = levels.double()[codes.int()].view(-1, BLOCK) * scales[:, None]
    return tensors, meaning.view(ROWS, COLUMNS)


def config(nested: bool = False, **extra: Any) -> dict[str, Any]:
    return {"load_in_4bit": True, "bnb_4bit_use_double_quant": nested} | extra


@settings(deadline=None, max_examples=30)
@given(nested=st.booleans(), seed=st.integers(0, 2**32))
def test_four_bits_are_off_by_half_an_int8_step_at_most(nested: bool, seed: int) -> None:
    tensors, meaning = four_bits(nested, seed)
    form = BitsAndBytes(config(nested))
    scheme = form.scheme(LAYER)
    assert scheme is not None and set(form.tensors(LAYER)) == set(tensors)
    weight = form.canonical(LAYER, tensors)
    check_weight(LAYER, weight, scheme, ROWS, COLUMNS)
    step = weight.scales.double().abs().repeat_interleave(BLOCK, 1)
    assert bool(((dequantize(weight, scheme).double() - meaning).abs() <= step * 0.501).all())


def test_int8_is_exact() -> None:
    random = torch.Generator().manual_seed(1)
    values = torch.randint(-127, 128, (8, 16), generator=random).to(torch.int8)
    largest = torch.rand(8, generator=random)
    form = BitsAndBytes({"load_in_8bit": True})
    scheme = form.scheme(LAYER)
    assert scheme is not None
    weight = form.canonical(LAYER, {W: values, f"{LAYER}.SCB": largest})
    check_weight(LAYER, weight, scheme, 8, 16)
    expected = values.double() * largest.double()[:, None] / 127
    torch.testing.assert_close(dequantize(weight, scheme).double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda t: t.pop(f"{W}.absmax"), "absmax' is missing"),
        (lambda t: t.pop(f"{W}.quant_map"), "quant_map' is missing"),
        (lambda t: t.update({W: t[W][:5]}), r"5 bytes are no matrix \[12, 128\]"),
        (lambda t: t.update({f"{W}.quant_map": torch.ones(15)}), "no table of 16 numbers"),
        (lambda t: t.update({f"{W}.quant_map": torch.full((16,), 3.0)}), "no table of 16 numbers"),
        (lambda t: t.update({f"{W}.absmax": torch.ones(3)}), "has 3 entries, the layer 24 blocks"),
        (
            lambda t: t.update(
                {f"{W}.quant_state.bitsandbytes__nf4": torch.zeros(4, dtype=torch.uint8)}
            ),
            "not valid JSON",
        ),
    ],
)
def test_broken_parts_are_named(edit: Any, fault: str) -> None:
    tensors, _ = four_bits(False)
    edit(tensors)
    with pytest.raises(ModelError, match=fault):
        BitsAndBytes(config()).canonical(LAYER, tensors)


def test_a_nested_table_of_another_size_is_named() -> None:
    tensors, _ = four_bits(True)
    tensors[f"{W}.nested_quant_map"] = torch.ones(16)
    with pytest.raises(ModelError, match="nested_absmax' does not fit"):
        BitsAndBytes(config(True)).canonical(LAYER, tensors)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, "needs one of load_in_4bit and load_in_8bit"),
        (config(load_in_8bit=True), "needs one of"),
        (config(bnb_4bit_quant_type="int4"), "needs nf4 or fp4"),
        (config(llm_int8_skip_modules="lm_head"), "needs a list"),
    ],
)
def test_a_wrong_configuration_is_refused(changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        BitsAndBytes(changed)
