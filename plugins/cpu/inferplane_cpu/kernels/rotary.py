"""Rotary embedding; queries and keys that lie side by side turn in one pass.

T tokens, N heads, K KV heads, H head size, R rotated pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane.ops.reference.rotary import rotary as reference

__all__ = ["rotary"]


def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Turn the first 2R elements of each head of q[T,N,H] and k[T,K,H]; cos, sin f32[T,R]."""
    pairs = cos.shape[1]
    if interleaved or 2 * pairs != q.shape[2]:
        return reference(q, k, cos, sin, interleaved)
    cos, sin = cos[:, None], sin[:, None]
    heads, size = q.shape[1], q.shape[2]
    if _adjacent(q, k):
        both = q.as_strided((q.shape[0], heads + k.shape[1], size), q.stride())
        turned = _turn(both, cos, sin, pairs)
        return turned[:, :heads], turned[:, heads:]
    return _turn(q, cos, sin, pairs), _turn(k, cos, sin, pairs)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, pairs: int) -> Tensor:
    wide = x.float()
    first, second = wide[..., :pairs], wide[..., pairs:]
    turned = torch.cat(
        ((first * cos).sub_(second * sin), (second * cos).add_(first * sin)),
        -1,
    )
    return turned.to(x.dtype)


def _adjacent(q: Tensor, k: Tensor) -> bool:
    """Whether k's heads follow q's in the same rows, as in a merged projection."""
    return (
        q.stride() == k.stride()
        and q.data_ptr() + q.shape[1] * q.stride(1) * q.element_size() == k.data_ptr()
        and q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    )
