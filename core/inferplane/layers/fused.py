"""Pairs of layers that a plugin may run as one; elsewhere they run in turn.

T tokens, D model size, I inner size, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from inferplane.layers.build import Builder, LinearLayer
from inferplane.layers.linear import Linear
from inferplane.layers.norm import RmsNorm

__all__ = ["GatedDown", "NormedLinear"]


class NormedLinear:
    """(x[T,D], residual[T,D]) -> (linear(norm(x + residual)) [T,O], x + residual)."""

    __slots__ = ("_fused", "_linear", "_norm")

    def __init__(self, build: Builder, norm: RmsNorm, linear: LinearLayer) -> None:
        self._norm = norm
        self._linear = linear
        self._fused = _fusion(build, "add_norm_linear/1", linear)

    def __call__(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        norm, linear = self._norm, self._linear
        if self._fused is not None and isinstance(linear, Linear):
            out: tuple[Tensor, Tensor] = self._fused(
                x, residual, norm.weight, norm.eps, linear.weight, linear.bias
            )
            return out
        normed, total = norm.add(x, residual)
        return linear(normed), total


class GatedDown:
    """x[T,2I] -> down(act(x)) [T,O]; fused where the activation is SiLU."""

    __slots__ = ("_act", "_down", "_fused")

    def __init__(
        self, build: Builder, act: Callable[[Tensor], Tensor], is_silu: bool, down: LinearLayer
    ) -> None:
        self._act = act
        self._down = down
        self._fused = _fusion(build, "silu_mul_linear/1", down) if is_silu else None

    def __call__(self, x: Tensor) -> Tensor:
        down = self._down
        if self._fused is not None and isinstance(down, Linear):
            out: Tensor = self._fused(x, down.weight, down.bias)
            return out
        return down(self._act(x))


def _fusion(build: Builder, name: str, linear: LinearLayer) -> Callable[..., Any] | None:
    """Only plain weights can be fused: quantised and divided layers do more than multiply."""
    if not isinstance(linear, Linear):
        return None
    outputs, inputs = linear.weight.shape
    return build.fusion(name, I=inputs, O=outputs)
