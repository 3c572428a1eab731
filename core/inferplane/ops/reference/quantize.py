"""Quantised activations and the product of quantised matrices, in plain torch.

T tokens, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["quantize_activation", "quantize_with", "scaled_matmul"]

_TYPES = {"int8": (torch.int8, 127.0), "fp8_e4m3": (torch.float8_e4m3fn, 448.0)}
_SMALLEST = 1e-12
"""Scale of a row of zeros: anything but 0, which would divide by itself."""


def quantize_activation(x: Tensor, scheme: str) -> tuple[Tensor, Tensor]:
    """(q[T,I], scale f32) with x = q * scale; scale is [T,1], or [1,1] for `..._tensor`.

    `scheme` is "int8" or "fp8_e4m3", then "_token" or "_tensor". The largest magnitude of a row
    (or of all) becomes 127, or 448; int8 rounds half to even.
    """
    kind, _, extent = scheme.rpartition("_")
    largest = x.float().abs().amax(-1, keepdim=True)
    if extent == "tensor":
        largest = largest.amax(0, keepdim=True)
    scale = (largest / _TYPES[kind][1]).clamp_min(_SMALLEST)
    return quantize_with(x, scale, kind), scale


def quantize_with(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """x over a given scale (broadcast against x), rounded to `kind` and clamped to its range."""
    dtype, most = _TYPES[kind]
    scaled = (x.float() / scale).clamp(-most, most)
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype)


def scaled_matmul(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype
) -> Tensor:
    """a[T,I] times b[O,I] transposed, times both scales -> [T,O] of `dtype`.

    scale_a f32[T,1] or [1,1]; scale_b f32[O,1] or [1,1].
    """
    product = a.float() @ b.float().t()
    return (product * scale_a * scale_b.t()).to(dtype)
