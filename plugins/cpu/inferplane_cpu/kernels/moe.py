"""Routed experts that compute only what was routed to them.

T tokens, E experts, k of them active, D model size, I inner size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane_cpu.kernels.activation import gelu_mul, silu_mul

__all__ = ["fused_moe"]


def fused_moe(x: Tensor, w13: Tensor, w2: Tensor, w: Tensor, ids: Tensor, act: str) -> Tensor:
    """Weighted sum of the chosen experts' gated feed-forward parts: x[T,D] -> [T,D] in x's dtype.

    w13[E,2I,D] gate and up, w2[E,D,I] down, w f32[T,k] weights of the experts ids i32[T,k];
    `act` is "silu" or "gelu". Rows are sorted by expert, so that each chosen expert's matrices are
    read once a step and the others' not at all; sums are float32, in the order of the experts.
    """
    gated = silu_mul if act == "silu" else gelu_mul
    chosen, order = ids.flatten().sort(stable=True)
    tokens = order // ids.shape[1]
    shares = w.flatten()[order].unsqueeze(1)
    total = torch.zeros(x.shape, dtype=torch.float32)
    start = 0
    for expert, count in enumerate(torch.bincount(chosen, minlength=w13.shape[0]).tolist()):
        if not count:
            continue
        mine = slice(start, start + count)
        rows = tokens[mine]
        y = F.linear(gated(F.linear(x[rows], w13[expert])), w2[expert])
        total.index_add_(0, rows, y.float() * shares[mine])
        start += count
    return total.to(x.dtype)
