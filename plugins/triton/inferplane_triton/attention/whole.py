"""Long prompts without cached context: torch's own attention, which vendors keep fast.

T tokens, N heads, K KV heads, H head size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["ROUND", "attend_whole"]

ROUND = 1024
"""Lengths are rounded up to it, since the fastest kernels are planned anew for each length."""
_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend_whole(
    q: Tensor, k: Tensor, v: Tensor, span: tuple[int, int], scale: float, out: Tensor
) -> None:
    """Causal attention of token rows span[0]..span[1] among themselves, into the same rows of out.

    q[T,N,H], k[T,K,H], v[T,K,H]. The rows behind the span serve as padding where there are any:
    no row of the span sees them.
    """
    begin, end = span
    length = end - begin
    padded = -(-length // ROUND) * ROUND

    def heads_first(x: Tensor) -> Tensor:
        rows = x[begin : begin + padded]
        if len(rows) < padded:
            rows = F.pad(rows, (0, 0, 0, 0, 0, padded - len(rows)))
        return rows.transpose(0, 1)[None]

    with sdpa_kernel(_FASTEST_FIRST, set_priority=True):
        attended = F.scaled_dot_product_attention(
            heads_first(q),
            heads_first(k),
            heads_first(v),
            is_causal=True,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    out[begin:end].copy_(attended[0, :, :length].transpose(0, 1))
