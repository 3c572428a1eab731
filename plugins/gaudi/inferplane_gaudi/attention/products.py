"""Attention of a step in plain torch, in the two forms Gaudi's compiler maps well; no loops.

R rows, B sequences, Q rows a sequence, L listed blocks, C keys, S block size, N heads, K KV heads,
G heads sharing a KV head, H head size, Hv value head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Rule", "attend_listed", "attend_rectangle", "seen_from"]

_NEVER = -1e30
_LEAST_SUM = 1e-30
"""Of the weights of a row that sees nothing: its result is 0, not NaN."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a token attends to, and how strongly."""

    scale: float
    window: int | None = None
    """A token sees itself and the window-1 tokens before it."""
    softcap: float | None = None


def attend_listed(
    q: Tensor,
    held: tuple[Tensor, Tensor],
    lists: Mapping[str, Tensor],
    rule: Rule,
    sinks: Tensor | None = None,
) -> Tensor:
    """q[R,N,H] over the listed blocks' keys [L,S,K,H] and values [L,S,K,Hv] -> [R,N,Hv].

    `lists` as `list_blocks` makes them. Each entry yields its block's scores for its row; maxima
    and sums of a row's blocks then meet by `groups`, the last group taking what is padding.
    Products by a one-hot matrix would do that too, but carry the NaN of one row into all.
    """
    rows, num_heads, head_dim = q.shape
    groups = lists["groups"]
    keys, values = held
    kv_heads = keys.shape[2]
    asked = q.reshape(rows, kv_heads, -1, head_dim).index_select(0, groups.clamp(max=rows - 1))
    scores = torch.matmul(asked, keys.to(q.dtype).permute(0, 2, 3, 1)).float()
    scores = _capped(scores * rule.scale, rule)
    place = torch.arange(keys.shape[1], dtype=torch.int32, device=q.device)
    seen = (place >= lists["first"][:, None]) & (place <= lists["last"][:, None])
    seen_LKGS = seen[:, None, None]
    scores = torch.where(seen_LKGS, scores, torch.full_like(scores, _NEVER))
    highest = scores.amax(-1)
    most = scores.new_full((rows + 1, *highest.shape[1:]), _NEVER)
    most = most.scatter_reduce(0, groups.long()[:, None, None].expand_as(highest), highest, "amax")
    if sinks is not None:
        heads = sinks.float().reshape(1, kv_heads, -1)
        most = torch.maximum(most, heads)
    weights = (scores - most.index_select(0, groups)[..., None]).exp()
    weights = torch.where(seen_LKGS, weights, torch.zeros_like(weights))
    sums = torch.zeros_like(most).index_add(0, groups, weights.sum(-1))
    if sinks is not None:
        sums = sums + (heads - most).exp()
    parts = torch.matmul(weights.to(q.dtype), values.to(q.dtype).transpose(1, 2)).float()
    out = parts.new_zeros((rows + 1, *parts.shape[1:])).index_add(0, groups, parts)
    out = out[:rows] / sums[:rows, ..., None].clamp_min(_LEAST_SUM)
    return out.reshape(rows, num_heads, -1).to(q.dtype)


def attend_rectangle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    seen: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """q[B,Q,N,H] over k[B,C,K,H], v[B,C,K,Hv] -> [B,Q,N,Hv], through the fused kernel where it can.

    `seen` bool [B,Q,C]; None = each row sees itself and those before it (C = Q), and no mask is in
    memory. Soft caps and sinks are no part of the fused kernel and are computed step by step.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    if rule.softcap is None and sinks is None:
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            None if seen is None else seen[:, None],
            is_causal=seen is None,
            scale=rule.scale,
            enable_gqa=grouped,
        )
        return out.transpose(1, 2)
    if seen is None:
        place = torch.arange(q.shape[2], dtype=torch.int32, device=q.device)[None]
        seen = seen_from(place, q.shape[2], None)
    kv_heads = k.shape[1]
    asked = torch.unflatten(q, 1, (kv_heads, -1))
    scores = _capped(
        torch.matmul(asked, k[:, :, None].transpose(-1, -2)).float() * rule.scale, rule
    )
    scores = torch.where(seen[:, None, None], scores, torch.full_like(scores, _NEVER))
    if sinks is not None:
        sink = sinks.float().reshape(1, kv_heads, -1, 1, 1)
        scores = torch.cat((scores, sink.expand(*scores.shape[:-1], 1)), -1)
    weights = scores.softmax(-1)[..., : k.shape[2]].to(q.dtype)
    return torch.matmul(weights, v[:, :, None]).flatten(1, 2).transpose(1, 2)


def seen_from(positions: Tensor, num_keys: int, window: int | None) -> Tensor:
    """bool [B,Q,C]: what tokens at `positions` i32[B,Q] see of keys at places 0..C-1."""
    place = torch.arange(num_keys, dtype=torch.int32, device=positions.device)
    seen = place <= positions[..., None]
    if window is not None:
        seen = seen & (place > positions[..., None] - window)
    return seen


def _capped(scores: Tensor, rule: Rule) -> Tensor:
    return scores if rule.softcap is None else rule.softcap * torch.tanh(scores / rule.softcap)
