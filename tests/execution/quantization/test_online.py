"""Weights quantised while loading are as close as their steps allow."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.online import ONLINE_KINDS, Online
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"


class Allocations(TorchDispatchMode):
    """Bytes of tensors that operations made and that are still there, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] = {}
    ) -> Any:
        for tensor in args:
            if isinstance(tensor, Tensor):
                self._known.add(tensor.untyped_storage()._cdata)
        made = func(*args, **kwargs)
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, which: int, num_bytes: int) -> None:
        self._known.discard(which)
        self.now -= num_bytes


def there_and_back(kind: str, weight: Tensor) -> Tensor:
    form = Online({"quant_method": "online", "weights": kind})
    scheme = form.scheme(LAYER)
    assert scheme is not None
    packed = form.canonical(LAYER, {f"{LAYER}.weight": weight})
    check_weight(LAYER, packed, scheme, *weight.shape)
    return dequantize(packed, scheme).double()


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 8), groups=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_no_weight_moves_by_more_than_half_a_step_but_those_that_four_bits_clip(
    rows: int, groups: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 32 * groups, generator=random) * 3
    wide = weight.double()
    step = wide.abs().amax(1, keepdim=True) / 127
    assert bool(((there_and_back("int8", weight) - wide).abs() <= step * 0.5001).all())
    runs = wide.view(rows, groups, 32)
    step = (runs.amax(2, keepdim=True) - runs.amin(2, keepdim=True)) / 15
    moved = (there_and_back("int4", weight).view_as(runs) - runs).abs()
    # No group is worse than all its weights half a step away, so none moves by more than all that.
    assert bool((moved.square().sum(2) <= 32 * (step * 0.501).square().squeeze(2)).all())
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


@pytest.mark.parametrize("kind", ONLINE_KINDS)
def test_quantising_a_layer_takes_its_result_and_a_buffer_that_does_not_grow(kind: str) -> None:
    form, name = Online({"weights": kind}), f"{LAYER}.weight"
    beyond = []
    for outputs in (2048, 8192):
        weight = torch.ones(outputs, 1024, dtype=torch.bfloat16)
        with Allocations() as seen:
            made = form.canonical(LAYER, {name: weight})
        parts = [made.values, made.scales] + ([] if made.offsets is None else [made.offsets])
        beyond.append(seen.most - sum(part.nbytes for part in parts))
    assert 0 < beyond[0] < 32 << 20
    assert beyond[1] <= beyond[0] * 1.01
