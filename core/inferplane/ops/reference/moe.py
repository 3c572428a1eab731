"""Mixture of experts in plain torch, with shapes that do not depend on the routing.

T tokens, E experts, k of them active, D model size, I inner size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane.ops.reference.activation import gelu_mul, silu_mul

__all__ = ["fused_moe", "moe_topk"]


def moe_topk(logits: Tensor, k: int, renormalize: bool, scoring: str) -> tuple[Tensor, Tensor]:
    """(weights f32[T,k], expert ids i32[T,k]) of the k best experts for logits[T,E].

    `scoring` is "softmax" or "sigmoid"; `renormalize` makes the weights of a token add up to 1.
    """
    wide = logits.float()
    scores = wide.softmax(-1) if scoring == "softmax" else wide.sigmoid()
    weights, ids = scores.topk(k, dim=-1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, ids.to(torch.int32)


def fused_moe(x: Tensor, w13: Tensor, w2: Tensor, w: Tensor, ids: Tensor, act: str) -> Tensor:
    """Weighted sum of the chosen experts' gated feed-forward parts: x[T,D] -> [T,D].

    w13[E,2I,D] gate and up, w2[E,D,I] down, w f32[T,k] weights of the experts ids i32[T,k];
    `act` is "silu" or "gelu". Every expert sees every token: no shape depends on the routing.
    """
    gated = silu_mul if act == "silu" else gelu_mul
    num_experts = w13.shape[0]
    share = torch.zeros(x.shape[0], num_experts, dtype=torch.float32, device=x.device)
    share = share.scatter_add(1, ids.long(), w)
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(num_experts):
        y = F.linear(gated(F.linear(x, w13[expert])), w2[expert])
        total = total + y.float() * share[:, expert, None]
    return total.to(x.dtype)
