"""Long prompts without cached context: torch's own attention, which vendors keep fast.

T tokens, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["ROUND", "attend_everything", "attend_whole"]

ROUND = 1024
"""Lengths are rounded up to it, since the fastest kernels are planned anew for each length."""
_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend_whole(
    q: Tensor, k: Tensor, v: Tensor, spans: Sequence[tuple[int, int]], scale: float, out: Tensor
) -> None:
    """Causal attention of each span of token rows among themselves, into the same rows of out.

    q[T,N,H], k[T,K,H], v[T,K,H]. Neighbours of the same length go together. The rows behind a span
    serve as padding where there are any: no row of the span sees them.
    """
    for begin, length, count in _runs(spans):
        end = begin + length * count
        attended = _attend(q, k, v, begin, length, count, scale)
        out[begin:end].view(count, length, *out.shape[1:]).copy_(attended)


def attend_everything(q: Tensor, k: Tensor, v: Tensor, spans: int, scale: float) -> Tensor:
    """The same for `spans` prompts of equal length that are all there is: [T,N,H], not copied."""
    length = len(q) // spans
    return _attend(q, k, v, 0, length, spans, scale).flatten(0, 1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, begin: int, length: int, count: int, scale: float
) -> Tensor:
    """[count,length,N,H]"""
    padded = -(-length // ROUND) * ROUND if count == 1 else length

    def heads_first(x: Tensor) -> Tensor:
        rows = x[begin : begin + padded * count]
        if len(rows) < padded * count:
            rows = F.pad(rows, (0, 0, 0, 0, 0, padded * count - len(rows)))
        return rows.view(count, padded, *x.shape[1:]).transpose(1, 2)

    with sdpa_kernel(_FASTEST_FIRST, set_priority=True):
        attended = F.scaled_dot_product_attention(
            heads_first(q),
            heads_first(k),
            heads_first(v),
            is_causal=True,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    return attended.transpose(1, 2)[:, :length]


def _runs(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(first row, length, number) of neighbouring spans of one length; odd lengths stay alone."""
    runs: list[tuple[int, int, int]] = []
    for begin, end in spans:
        length = end - begin
        if runs and length % ROUND == 0:
            first, held, count = runs[-1]
            if held == length and first + held * count == begin:
                runs[-1] = first, held, count + 1
                continue
        runs.append((begin, length, 1))
    return runs
