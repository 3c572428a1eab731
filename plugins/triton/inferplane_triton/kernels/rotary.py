"""rotary/1, and the same with the norm of each head in one launch."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane_triton.device.rotary import rotate_heads
from inferplane_triton.tuning import target

__all__ = ["norm_rotary", "rotary"]

_HEADS = 4
"""Heads one program turns: few, so that one token spreads over the device."""


def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Turn the first 2R elements of each head of q[T,N,H] and k[T,K,H]; cos, sin f32[T,R]."""
    return _turn(q, k, cos, sin, interleaved, None, 0.0)


def norm_rotary(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    """rms_norm of each head of q and k by its weight f32[H], then `rotary`."""
    return _turn(q, k, cos, sin, interleaved, (q_weight, k_weight), eps)


def _turn(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    (tokens, q_heads, size), k_heads, half = q.shape, k.shape[1], cos.shape[1]
    q, k = (x if x.stride(1) == size and x.stride(2) == 1 else x.contiguous() for x in (q, k))
    q_out = torch.empty((tokens, q_heads, size), dtype=q.dtype, device=q.device)
    k_out = torch.empty((tokens, k_heads, size), dtype=k.dtype, device=k.device)
    q_weight, k_weight = weights or (cos, cos)
    tail = size - 2 * half
    blocks = triton.cdiv(q_heads, _HEADS) + triton.cdiv(k_heads, _HEADS)
    rotate_heads[(tokens, blocks)](
        q, k, cos, sin, q_weight, k_weight, q_out, k_out,
        q.stride(0), k.stride(0), cos.stride(0), q_heads, k_heads, eps,
        HEAD=size, HALF=half, HEADS=_HEADS, BLOCK=triton.next_power_of_2(half),
        TAIL=triton.next_power_of_2(tail) if tail else 0,
        INTERLEAVED=interleaved, NORM=weights is not None, num_warps=1, **target().launch(tokens),
    )  # fmt: skip
    return q_out, k_out
