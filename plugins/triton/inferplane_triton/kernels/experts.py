"""moe_topk/1 and fused_moe/1."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane_triton.device.experts import (
    choose_experts,
    gate_experts,
    lower_experts,
    sum_experts,
)
from inferplane_triton.kernels.stacks import Routes
from inferplane_triton.tuning import expert_tuning, target

__all__ = ["fused_moe", "moe_topk"]

_SUMMED = 1024


def moe_topk(logits: Tensor, k: int, renormalize: bool, scoring: str) -> tuple[Tensor, Tensor]:
    """(weights f32[T,k], expert ids i32[T,k]) of the k best experts for logits[T,E].

    `scoring` is "softmax" or "sigmoid"; `renormalize` makes the weights of a token add up to 1.
    """
    tokens, experts = logits.shape
    weights = torch.empty((tokens, k), dtype=torch.float32, device=logits.device)
    ids = torch.empty((tokens, k), dtype=torch.int32, device=logits.device)
    if tokens:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        choose_experts[(tokens,)](
            logits, weights, ids, logits.stride(0), EXPERTS=experts,
            E_PAD=int(triton.next_power_of_2(experts)), CHOICES=k,
            C_PAD=int(triton.next_power_of_2(k)), RENORMALIZE=renormalize,
            SIGMOID=scoring == "sigmoid", num_warps=1,
        )  # fmt: skip
    return weights, ids


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
    routes = Routes.of(ids, experts)
    order, counts = routes.order, routes.counts
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
