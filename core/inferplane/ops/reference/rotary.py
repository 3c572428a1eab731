"""Rotary position embedding in plain torch (arXiv:2104.09864).

T tokens, N heads, K KV heads, H head size, R rotated pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane.ops.reference.norm import rms_norm

__all__ = ["norm_rotary", "rotary"]


def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Turn the first 2R elements of each head of q[T,N,H] and k[T,K,H]; the rest stays.

    cos, sin f32[T,R]. A pair is (i, i + R), or (2i, 2i + 1) when `interleaved`.
    """
    cos, sin = cos[:, None], sin[:, None]
    return _turn(q, cos, sin, interleaved), _turn(k, cos, sin, interleaved)


def norm_rotary(
    q: Tensor,
    k: Tensor,
    q_w: Tensor,
    k_w: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    """`rms_norm` of each head with q_w, k_w f32[H], then `rotary`."""
    return rotary(rms_norm(q, q_w, eps), rms_norm(k, k_w, eps), cos, sin, interleaved)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    pairs = cos.shape[-1]
    wide = x[..., : 2 * pairs].float()
    if interleaved:
        first, second = wide[..., 0::2], wide[..., 1::2]
    else:
        first, second = wide[..., :pairs], wide[..., pairs:]
    turned = (first * cos - second * sin, second * cos + first * sin)
    out = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    out = out.to(x.dtype)
    return out if 2 * pairs == x.shape[-1] else torch.cat((out, x[..., 2 * pairs :]), -1)
