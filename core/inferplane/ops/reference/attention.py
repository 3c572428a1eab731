"""Paged attention in plain torch: oracle, and last resort where a device has no backend.

T tokens, S sequences, P blocks a table row holds, B block size, C context slots (P*B), N heads,
K KV heads, G heads sharing a KV head, H head size, Hv value head size. Static shapes, traceable,
unchanged by row padding and by any permutation of blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "AttentionRule",
    "PagedContext",
    "attend",
    "attend_texts",
    "write_and_attend",
    "write_kv",
]

_MOST_GATHERED = 2**24
"""Elements of keys gathered at once; longer steps are cut into pieces of tokens."""
_NEVER = -1e30


class PagedContext(NamedTuple):
    """Where each token's context lies."""

    tables: Tensor
    """i32[S,P] block ids of each sequence."""
    seq_of_token: Tensor
    """i32[T]"""
    positions: Tensor
    """i32[T]"""
    block_size: int


class AttentionRule(NamedTuple):
    """What a token attends to, and how strongly."""

    scale: float
    window: int | None = None
    """A token at p sees positions p-window+1..p; None = 0..p."""
    softcap: float | None = None
    """c makes a score s into c*tanh(s/c)."""


def write_kv(cache: tuple[Tensor, Tensor], k: Tensor, v: Tensor, slots: Tensor) -> None:
    """Store k[T,K,H], v[T,K,Hv] at slots i32[T] of the caches [blocks*B,K,H], [blocks*B,K,Hv].

    That is layout nhd: a cache [blocks,B,K,H] is passed as `.view(-1, K, H)`.
    """
    where = slots.long()  # index_copy_ takes no int32
    cache[0].index_copy_(0, where, k.to(cache[0].dtype))
    cache[1].index_copy_(0, where, v.to(cache[1].dtype))


def attend(
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    context: PagedContext,
    rule: AttentionRule,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of q[T,N,H] over what the caches hold -> [T,N,Hv] in q's dtype.

    Caches as in `write_kv`. `sinks` f32[N] are scores that take part in the softmax and carry no
    value.
    """
    tables, size = context.tables, context.block_size
    rows = tables.index_select(0, context.seq_of_token)
    offsets = torch.arange(size, device=tables.device, dtype=tables.dtype)
    per_token = tables.shape[1] * size * cache[0].shape[1] * cache[0].shape[2]
    piece = max(1, _MOST_GATHERED // per_token)
    out = []
    for start in range(0, q.shape[0], piece):
        part = slice(start, start + piece)
        slots = (rows[part, :, None] * size + offsets).flatten(1)
        out.append(_attend_slots(q[part], cache, slots, context.positions[part], rule, sinks))
    return out[0] if len(out) == 1 else torch.cat(out)


def write_and_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: tuple[Tensor, Tensor],
    slots: Tensor,
    context: PagedContext,
    rule: AttentionRule,
    sinks: Tensor | None = None,
) -> Tensor:
    """`write_kv`, then `attend`, so that a token sees itself."""
    write_kv(cache, k, v, slots)
    return attend(q, cache, context, rule, sinks)


def attend_texts(
    qkv: tuple[Tensor, Tensor, Tensor], rows: Tensor, lengths: Tensor, places: Tensor, scale: float
) -> Tensor:
    """Attention in both directions within each text: q[T,N,H], k[T,K,H], v[T,K,Hv] -> [T,N,Hv].

    `rows` i32[S,L] holds the token row of each place of each text, any valid one beyond its end;
    `lengths` i32[S]; `places` i32[T] is each token's place in the flattened [S,L].
    """
    q, k, v = (x[rows.long()].transpose(1, 2) for x in qkv)
    inside = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
    attended = F.scaled_dot_product_attention(
        q, k, v, inside[:, None, None], scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, places)


def _attend_slots(
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    slots: Tensor,
    positions: Tensor,
    rule: AttentionRule,
    sinks: Tensor | None,
) -> Tensor:
    """`attend` for a few tokens: slots[T,C] hold positions 0..C-1 of each token's sequence."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = cache[0].shape[1]
    place = torch.arange(slots.shape[1], device=slots.device)
    seen = place <= positions[:, None]
    if rule.window is not None:
        seen = seen & (place > positions[:, None] - rule.window)
    keys = cache[0][slots].float()
    # Without the fill, whatever lies in unused slots would pass through 0 x infinity.
    values = cache[1][slots].float().masked_fill(~seen[:, :, None, None], 0.0)
    q_TKGH = q.float().reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = torch.einsum("tkgh,tckh->tkgc", q_TKGH, keys) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = torch.where(seen[:, None, None], scores, torch.full_like(scores, _NEVER))
    if sinks is not None:
        sink = sinks.float().reshape(num_kv_heads, -1, 1).expand(num_tokens, -1, -1, 1)
        scores = torch.cat((scores, sink), -1)
    weights = scores.softmax(-1)[..., : slots.shape[1]]
    out = torch.einsum("tkgc,tckh->tkgh", weights, values)
    return out.reshape(num_tokens, num_heads, -1).to(q.dtype)
