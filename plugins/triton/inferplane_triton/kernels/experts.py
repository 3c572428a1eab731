"""fused_moe/1."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane_triton.device.experts import gate_experts, lower_experts, sort_pairs, sum_experts
from inferplane_triton.tuning import expert_tuning, target

__all__ = ["fused_moe", "sorted_pairs"]

_SORTED = 1024
"""Pairs of a loop step."""
_SUMMED = 1024


def fused_moe(x: Tensor, w13: Tensor, w2: Tensor, w: Tensor, ids: Tensor, act: str) -> Tensor:
    """Weighted sum of the chosen experts' gated feed-forward parts: x[T,D] -> [T,D].

    w13[E,2I,D] gate and up, w2[E,D,I] down, w f32[T,k] weights of the experts ids i32[T,k];
    `act` is "silu" or "gelu". Scratch: rows of I and of D for each pair of a token and an expert.
    """
    experts, size, inner = w2.shape
    tokens, choices = ids.shape
    pairs = tokens * choices
    out = torch.empty((tokens, size), dtype=x.dtype, device=x.device)
    if not pairs:
        return out
    found = target()
    tuning = expert_tuning(found, -(-pairs // experts), x.element_size())
    x, ids, w = x.contiguous(), ids.contiguous(), w.contiguous()
    order, counts = sorted_pairs(ids, experts)
    tiles = pairs // tuning.rows + min(experts, pairs)
    made = torch.empty((pairs, inner), dtype=x.dtype, device=x.device)
    parts = torch.empty((pairs, size), dtype=x.dtype, device=x.device)
    settings = {
        "EXPERTS": experts,
        "E_PAD": int(triton.next_power_of_2(experts)),
        "SIZE": size,
        "INNER": inner,
        "ROWS": tuning.rows,
        "COLS": tuning.cols,
        "STEP": tuning.inputs,
        "UPCAST": found.backend == "interpreter" and x.dtype == torch.bfloat16,
        "num_warps": tuning.warps,
        "num_stages": tuning.stages,
    }
    gate_experts[(triton.cdiv(inner, tuning.cols), tiles)](
        x, w13, order, counts, made, CHOICES=choices, GELU=act != "silu", **settings
    )
    lower_experts[(triton.cdiv(size, tuning.cols), tiles)](
        made, w2, order, counts, parts, **settings
    )
    block = min(_SUMMED, int(triton.next_power_of_2(size)))
    sum_experts[(tokens, triton.cdiv(size, block))](
        parts, w, out, CHOICES=choices, SIZE=size, BLOCK=block, num_warps=4
    )
    return out


def sorted_pairs(ids: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """(pairs i32[P] by expert, each expert's in their order; how many it has i32[E]) of ids."""
    order = torch.empty(ids.numel(), dtype=torch.int32, device=ids.device)
    counts = torch.empty(experts, dtype=torch.int32, device=ids.device)
    sort_pairs[(experts,)](ids, order, counts, ids.numel(), BLOCK=_SORTED, num_warps=4)
    return order, counts
