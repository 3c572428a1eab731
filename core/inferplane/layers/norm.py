"""Norm layers over the bound norm ops; weights are float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["LayerNorm", "RmsNorm"]


class RmsNorm:
    """x[...,H] -> [...,H]; with a residual, their sum is normed and returned beside it."""

    __slots__ = ("_add_op", "_op", "eps", "weight")

    weight: Tensor

    def __init__(self, op: Callable[..., Any], add_op: Callable[..., Any], eps: float) -> None:
        self._op = op
        self._add_op = add_op
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._op(x, self.weight, self.eps)
        return out

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x + residual, x + residual)."""
        out: tuple[Tensor, Tensor] = self._add_op(x, residual, self.weight, self.eps)
        return out


class LayerNorm:
    """x[...,H] -> [...,H], centred, with weight and bias f32[H]."""

    __slots__ = ("_op", "bias", "eps", "weight")

    weight: Tensor
    bias: Tensor

    def __init__(self, op: Callable[..., Any], eps: float) -> None:
        self._op = op
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._op(x, self.weight, self.bias, self.eps)
        return out
