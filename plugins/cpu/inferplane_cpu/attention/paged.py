"""Paged attention by torch's own kernels: one backend for prefill, decode and mixed steps.

Sequences with one new token are attended together, in few groups of similar length; longer chunks
one after the other. T tokens, S sequences of a group, P blocks of a group's longest, C = P * block
size, N heads, K KV heads, G = N / K, H head size, Hv value head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane.execution.quantized_kv import KV_KINDS, QuantizedKV
from inferplane.execution.torch_kv_store import PagedKV
from inferplane.interfaces import (
    Array,
    AttentionBackend,
    AttentionMeta,
    AttentionSpec,
    Bucket,
    Capabilities,
    DeviceRuntime,
    Reasons,
    StepBatch,
)
from inferplane.shapes import last_rows, pad

__all__ = ["PagedAttention"]

_SPLIT = 2
"""A group ends where the next sequence has more than this many times the blocks of its first."""
_SPARE_BLOCKS = 4
"""Sequences this many blocks apart always share a group: a call costs more than reading them."""


@dataclass(frozen=True, slots=True)
class _Singles:
    """One-token sequences attended in one call."""

    rows: Tensor | None
    """i64[S]; None = all token rows of the step, in order."""
    blocks: Tensor
    """i64[S*P]"""
    mask: Tensor
    """f32[S,1,1,C]: 0 = seen, -inf = not."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A sequence with several new tokens."""

    rows: slice
    blocks: Tensor
    """i64[P]: from the first that is seen."""
    num_keys: int
    """Places of those blocks that hold a token."""
    mask: Tensor | None
    """bool[tokens, num_keys]; None = plainly causal over the step's own keys."""


@dataclass(frozen=True, slots=True)
class _Work:
    singles: tuple[_Singles, ...]
    chunks: tuple[_Chunk, ...]


class PagedAttention(AttentionBackend):
    """Gathers the blocks that are seen, then scaled dot product attention."""

    layouts: ClassVar[tuple[str, ...]] = ("nhd",)
    graph: ClassVar[Literal["never", "decode", "always"]] = "never"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        self._group = spec.num_heads // spec.num_kv_heads
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        # Then a prompt attends to what the cache holds too: its result must not depend on chunks.
        self._quantized = spec.kv_dtype in KV_KINDS

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Causal attention over a cache of the plain kind."""
        checks = (
            (spec.causal, "attends causally only"),
            (spec.cached, "needs a KV cache"),
            (not spec.latent, "latent attention: not implemented"),
            (not spec.sinks, "attention sinks: not implemented"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Groups, block lists and masks; they depend on lengths alone and serve every layer."""
        if bucket is not None:
            batch = pad(batch, bucket, self._spec.block_size)
        lengths = np.diff(batch.query_start)
        last = last_rows(batch, bucket)
        table = batch.block_tables[self._spec.group]
        singles = np.flatnonzero(lengths == 1)
        work = _Work(
            tuple(
                self._singles(batch, table, group, last)
                for group in _by_length(batch.seq_lens, singles, self._spec.block_size)
            ),
            tuple(
                self._chunk(batch, table, int(s), int(last[s]), int(lengths[s]))
                for s in np.flatnonzero(lengths > 1)
            ),
        )
        slots = batch.slots[self._spec.group].astype(np.int64)
        return AttentionMeta(static=(), arrays={"slots": slots}, host=work)

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Writes the step's keys and values to their slots first."""
        cache, work = cast(PagedKV | QuantizedKV, kv), cast(_Work, meta.host)
        if k is not None and v is not None:
            cache.write(meta.arrays["slots"], k, v)
        if len(work.singles) == 1 and work.singles[0].rows is None:
            return self._attend_singles(q, cache, work.singles[0])
        out = q.new_zeros(q.shape[0], self._spec.num_heads, self._spec.head_dim_v)
        for singles in work.singles:
            assert singles.rows is not None
            mine = q.index_select(0, singles.rows)
            out.index_copy_(0, singles.rows, self._attend_singles(mine, cache, singles))
        for chunk in work.chunks:
            if chunk.mask is None and k is not None and v is not None and not self._quantized:
                keys, values = k[chunk.rows], v[chunk.rows]
            else:
                found = self._gather(cache, chunk.blocks)
                keys, values = (x[: chunk.num_keys] for x in found)
            out[chunk.rows] = self._attend_chunk(q[chunk.rows], keys, values, chunk.mask)
        return out

    def _singles(self, batch: StepBatch, table: Array, group: Array, last: Array) -> _Singles:
        spec, size = self._spec, self._spec.block_size
        lens = batch.seq_lens[group].astype(np.int64)
        first = np.zeros_like(lens)
        if spec.window is not None:
            first = np.maximum(lens - spec.window, 0) // size
        width = int((-(-lens // size) - first).max())
        place = first[:, None] + np.arange(width)
        blocks = table[group[:, None], np.minimum(place, table.shape[1] - 1)]
        position = (first * size)[:, None] + np.arange(width * size)
        seen = position < lens[:, None]
        if spec.window is not None:
            seen &= position >= lens[:, None] - spec.window
        mask = np.where(seen, np.float32(0), np.float32(-np.inf))[:, None, None]
        every = len(group) == len(batch.token_ids) and bool((np.diff(group) > 0).all())
        return _Singles(
            None if every else torch.from_numpy(last[group].astype(np.int64)),
            torch.from_numpy(blocks.astype(np.int64).reshape(-1)),
            torch.from_numpy(mask).to(self._dtype),
        )

    def _chunk(
        self, batch: StepBatch, table: Array, sequence: int, last: int, length: int
    ) -> _Chunk:
        spec, size = self._spec, self._spec.block_size
        rows = slice(last - length + 1, last + 1)
        context = int(batch.seq_lens[sequence])
        first = max(context - length - spec.window + 1, 0) // size if spec.window else 0
        blocks = torch.from_numpy(table[sequence, first : -(-context // size)].astype(np.int64))
        num_keys = context - first * size
        if context == length and (spec.window is None or context <= spec.window):
            return _Chunk(rows, blocks, num_keys, None)
        position = first * size + np.arange(num_keys)
        query = np.arange(context - length, context)[:, None]
        seen = position <= query
        if spec.window is not None:
            seen &= position > query - spec.window
        return _Chunk(rows, blocks, num_keys, torch.from_numpy(seen))

    def _gather(self, cache: PagedKV | QuantizedKV, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [P*size,K,H] and values [P*size,K,Hv] in the compute type."""
        if isinstance(cache, QuantizedKV):
            k, v = cache.gather(blocks)
            return k.to(self._dtype), v.to(self._dtype)
        keys = cache.k.index_select(0, blocks).flatten(0, 1)
        values = cache.v.index_select(0, blocks).flatten(0, 1)
        return keys.to(self._dtype), values.to(self._dtype)

    def _attend_singles(self, q: Tensor, cache: PagedKV | QuantizedKV, work: _Singles) -> Tensor:
        """q[S,N,H] -> [S,N,Hv]: the heads of a group stand as rows of one query."""
        spec, count = self._spec, q.shape[0]
        keys, values = self._gather(cache, work.blocks)
        k = keys.view(count, -1, spec.num_kv_heads, spec.head_dim).transpose(1, 2)
        v = values.view(count, -1, spec.num_kv_heads, spec.head_dim_v).transpose(1, 2)
        q = q.reshape(count, spec.num_kv_heads, self._group, spec.head_dim)
        out = self._attend(q, k, v, work.mask, causal=False)
        return out.reshape(count, spec.num_heads, spec.head_dim_v)

    def _attend_chunk(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """q[tokens,N,H] over keys [C,K,H] -> [tokens,N,Hv]."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q, keys, values))
        if self._spec.softcap is not None:
            k, v = (x.repeat_interleave(self._group, 1) for x in (k, v))
        return self._attend(q, k, v, mask, causal=mask is None)[0].transpose(0, 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        spec = self._spec
        if spec.softcap is None:
            gqa = q.shape[1] != k.shape[1]
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=spec.scale, enable_gqa=gqa
            )
        scores = (q.float() @ k.float().transpose(-1, -2)) * spec.scale
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        assert mask is not None
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        else:
            scores = scores + mask
        return (scores.softmax(-1) @ v.float()).to(q.dtype)


def _by_length(seq_lens: Array, singles: Array, block_size: int) -> list[Array]:
    """Indices of `singles` in groups whose members hold about as many blocks as each other."""
    if not len(singles):
        return []
    blocks = -(-seq_lens[singles] // block_size)
    if blocks.max() <= max(_SPLIT * blocks.min(), blocks.min() + _SPARE_BLOCKS):
        return [singles]
    order = np.argsort(blocks, kind="stable")
    groups, start = [], 0
    for at in range(1, len(order) + 1):
        least = blocks[order[start]]
        if at == len(order) or blocks[order[at]] > max(_SPLIT * least, least + _SPARE_BLOCKS):
            groups.append(np.sort(singles[order[start:at]]))
            start = at
    return groups
