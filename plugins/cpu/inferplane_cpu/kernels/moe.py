"""Routed experts that compute only what was routed to them.

T tokens, E experts, k of them active, D model size, I inner size, P = T * k pairs of both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane_cpu.kernels.activation import gelu_mul, silu_mul

__all__ = ["fused_moe"]


def fused_moe(x: Tensor, w13: Tensor, w2: Tensor, w: Tensor, ids: Tensor, act: str) -> Tensor:
    """Weighted sum of the chosen experts' gated feed-forward parts: x[T,D] -> [T,D] in x's dtype.

    w13[E,2I,D] gate and up, w2[E,D,I] down, w f32[T,k] weights of the experts ids i32[T,k];
    `act` is "silu" or "gelu". Pairs are sorted by expert, so that each chosen expert's matrices are
    read once a step and the others' not at all; a token's sum is float32, in the order of its ids.
    """
    gated = silu_mul if act == "silu" else gelu_mul
    chosen, order = ids.flatten().sort(stable=True)
    counts = torch.bincount(chosen, minlength=w13.shape[0]).tolist()
    inner = gated(_by_expert(x[order // ids.shape[1]], w13, counts))
    parts = torch.empty(len(order), w2.shape[1], dtype=torch.float32)
    parts[order] = _by_expert(inner, w2, counts).float()
    return parts.view(*ids.shape, x.shape[1]).mul_(w.unsqueeze(2)).sum(1).to(x.dtype)


def _by_expert(rows: Tensor, stack: Tensor, counts: list[int]) -> Tensor:
    """rows[P,I] times the matrix of their expert in stack[E,O,I], transposed -> [P,O].

    The first counts[0] rows are of expert 0, and so on.
    """
    out = rows.new_empty(len(rows), stack.shape[1])
    start = 0
    for expert, count in enumerate(counts):
        if count:
            mine = slice(start, start + count)
            torch.mm(rows[mine], stack[expert].t(), out=out[mine])
            start += count
    return out
