"""Linear layers: dense, and split over ranks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from inferplane.interfaces import Communicator

__all__ = ["Linear", "ReducedLinear"]


class Linear:
    """x[T,I] -> [T,O]. `op` is the bound linear/1; `weight` [O,I], `bias` [O] or None."""

    __slots__ = ("bias", "op", "weight")

    weight: Tensor
    bias: Tensor | None

    def __init__(self, op: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> None:
        self.op = op
        self.bias = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.op(x, self.weight, self.bias)


class ReducedLinear:
    """A linear layer of which each rank holds a part of the inputs: the parts are added up."""

    __slots__ = ("bias", "communicator", "inner")

    bias: Tensor | None

    def __init__(self, inner: Callable[[Tensor], Tensor], communicator: Communicator) -> None:
        self.inner = inner
        self.communicator = communicator
        self.bias = None

    def __call__(self, x: Tensor) -> Tensor:
        total = self.communicator.all_reduce(self.inner(x))
        return total if self.bias is None else total + self.bias
