"""Stacks of quantised matrices, one for each expert, and how their pieces are put together.

R rows, k experts of each, E experts, O output features, I input features, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, QuantKernel
from inferplane.quantization.canonical import join_weights

__all__ = ["Pieces", "QuantizedStack", "StackLoading"]


class QuantizedStack:
    """x[R,I] and experts ids i32[R,k] -> [R*k,O], by one kernel over what it repacked."""

    __slots__ = ("apply_each", "packed")

    packed: Mapping[str, Tensor]

    def __init__(self, apply_each: Callable[..., Tensor]) -> None:
        self.apply_each = apply_each

    def __call__(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.apply_each(x, self.packed, ids)


class Pieces:
    """Collects the pieces of one layer, and hands them over joined when the last has come."""

    def __init__(self, count: int, use: Callable[[CanonicalWeight], None]) -> None:
        self._parts: dict[int, CanonicalWeight] = {}
        self._count = count
        self._use = use

    def add(self, place: int, weight: CanonicalWeight) -> None:
        """Piece number `place`."""
        self._parts[place] = weight
        if len(self._parts) == self._count:
            parts = [self._parts[number] for number in range(self._count)]
            self._parts = {}
            self._use(join_weights(parts))


class StackLoading:
    """Fills a stack as its experts come, and has it repacked when all are there."""

    def __init__(self, stack: QuantizedStack, kernel: QuantKernel, count: int) -> None:
        self._stack = stack
        self._kernel = kernel
        self._missing = set(range(count))
        self._whole: CanonicalWeight | None = None

    def expert(self, number: int, count: int) -> Pieces:
        """Where the `count` pieces of an expert go."""

        def place(weight: CanonicalWeight) -> None:
            self._place(number, weight)

        return Pieces(count, place)

    def _place(self, number: int, weight: CanonicalWeight) -> None:
        if self._whole is None:
            experts = len(self._missing)
            offsets = weight.offsets
            self._whole = replace(
                weight,
                values=weight.values.new_empty(experts, *weight.values.shape),
                scales=weight.scales.new_empty(experts, *weight.scales.shape),
                offsets=None if offsets is None else offsets.new_empty(experts, *offsets.shape),
            )
        _bytes(self._whole.values)[number] = _bytes(weight.values)
        self._whole.scales[number] = weight.scales
        if self._whole.offsets is not None and weight.offsets is not None:
            self._whole.offsets[number] = weight.offsets
        self._missing.discard(number)
        if not self._missing:
            self._stack.packed = dict(self._kernel.repack(self._whole))
            self._whole = None


def _bytes(values: Tensor) -> Tensor:
    """torch copies bytes on every device, fp8 numbers only on some."""
    return values.view(torch.uint8) if values.dtype.is_floating_point else values
