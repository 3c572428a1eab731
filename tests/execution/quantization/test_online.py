"""Weights quantised while loading are as close as their steps allow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.online import ONLINE_KINDS, Online
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"


def there_and_back(kind: str, weight: Tensor) -> Tensor:
    form = Online({"quant_method": "online", "weights": kind})
    scheme = form.scheme(LAYER)
    assert scheme is not None
    packed = form.canonical(LAYER, {f"{LAYER}.weight": weight})
    check_weight(LAYER, packed, scheme, *weight.shape)
    return dequantize(packed, scheme).double()


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 8), groups=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_no_weight_moves_by_more_than_half_a_step(rows: int, groups: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 32 * groups, generator=random) * 3
    wide = weight.double()
    step = wide.abs().amax(1, keepdim=True) / 127
    assert bool(((there_and_back("int8", weight) - wide).abs() <= step * 0.5001).all())
    runs = wide.view(rows, groups, 32)
    step = (runs.amax(2, keepdim=True) - runs.amin(2, keepdim=True)) / 15
    moved = (there_and_back("int4", weight).view_as(runs) - runs).abs()
    assert bool((moved <= step * 0.501).all())
    moved = (there_and_back("fp8", weight) - wide).abs()
    floor = wide.abs().amax(1, keepdim=True) / 448 * 2**-9
    assert bool((moved <= wide.abs() / 16 * 1.001 + floor).all())


@pytest.mark.parametrize("kind", ONLINE_KINDS)
def test_constant_and_zero_rows_survive(kind: str) -> None:
    weight = torch.zeros(3, 32)
    weight[1] = 5.0
    torch.testing.assert_close(there_and_back(kind, weight), weight.double(), atol=1e-6, rtol=1e-6)


def test_the_output_layer_is_spared_four_bits() -> None:
    head = {kind: Online({"weights": kind}).scheme("lm_head") for kind in ONLINE_KINDS}
    assert [scheme and scheme.weight for scheme in head.values()] == ["int8", "int8", None]


def test_what_cannot_be_quantised_is_named() -> None:
    form = Online({"weights": "int4"})
    name = f"{LAYER}.weight"
    with pytest.raises(ModelError, match=f"'{name}' has 40 inputs, int4 needs a multiple of 32"):
        form.canonical(LAYER, {name: torch.ones(2, 40)})
    with pytest.raises(ModelError, match="only matrices of float32"):
        form.canonical(LAYER, {name: torch.ones(2, 32, dtype=torch.int8)})
    with pytest.raises(ModelError, match="not finite"):
        form.canonical(LAYER, {name: torch.full((2, 32), torch.nan)})
    with pytest.raises(ConfigError, match="'int3' is unknown .accepted: int8, int4, fp8"):
        Online({"weights": "int3"})
