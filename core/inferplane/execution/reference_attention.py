"""The core's own attention: fallback on every device, and the oracle of all others.

T tokens, S sequences, P table width, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from inferplane.execution.quantized_kv import QuantizedKV
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
from inferplane.ops.reference.attention import AttentionRule, PagedContext, attend, write_kv
from inferplane.shapes import pad

__all__ = ["ReferenceAttention", "owners"]


class ReferenceAttention(AttentionBackend):
    """Gathers the whole table of every token: static shapes, correct, slow."""

    layouts = ("nhd",)
    graph: ClassVar[Literal["never", "decode", "always"]] = "always"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        self._rule = AttentionRule(spec.scale, spec.window, spec.softcap)

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Causal attention over a cache of the plain kind."""
        checks = (
            (spec.causal, "attends causally only"),
            (spec.cached, "needs a KV cache"),
            (not spec.latent, "latent attention: not implemented"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Slots, tables and the sequence of each token row."""
        spec = self._spec
        if bucket is not None:
            batch = pad(batch, bucket, spec.block_size)
        tables = batch.block_tables[spec.group]
        if bucket is None:  # no wider than this step needs: cost grows with the width
            longest = int(batch.seq_lens.max(initial=1))
            tables = np.ascontiguousarray(tables[:, : -(-longest // spec.block_size)])
        arrays = {
            "slots": batch.slots[spec.group],
            "tables": tables,
            "owners": owners(batch, bucket),
            "positions": batch.positions,
        }
        return AttentionMeta(static=(), arrays=arrays)

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Writes, then reads back what it wrote."""
        if isinstance(kv, QuantizedKV):
            return self._forward_quantized(q, k, v, kv, meta, sinks)
        assert isinstance(kv, PagedKV)
        arrays = meta.arrays
        cache = kv.k.flatten(0, 1), kv.v.flatten(0, 1)
        if k is not None and v is not None:
            write_kv(cache, k, v, arrays["slots"])
        context = PagedContext(
            arrays["tables"], arrays["owners"], arrays["positions"], self._spec.block_size
        )
        return attend(q, cache, context, self._rule, sinks)

    def _forward_quantized(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: QuantizedKV,
        meta: AttentionMeta,
        sinks: Tensor | None,
    ) -> Tensor:
        """Over a dense copy of the blocks that the tables name, each in a place of its own."""
        arrays, tables = meta.arrays, meta.arrays["tables"]
        if k is not None and v is not None:
            kv.write(arrays["slots"], k, v)
        copied = torch.arange(tables.numel(), dtype=tables.dtype, device=tables.device)
        context = PagedContext(
            copied.view(tables.shape), arrays["owners"], arrays["positions"], self._spec.block_size
        )
        return attend(q, kv.gather(tables.flatten().long()), context, self._rule, sinks)


def owners(batch: StepBatch, bucket: Bucket | None) -> Array:
    """i32[T]: the sequence of each token row of a (padded) step.

    Padding rows that belong to nobody are given to the last sequence: if it is a real one they
    read its first token, which is finite, and nobody reads their result.
    """
    num_seqs, num_tokens = len(batch.seq_lens), len(batch.token_ids)
    if bucket is not None and bucket.rectangular:
        rows = np.arange(num_tokens, dtype=np.int32) // bucket.max_query
        return np.minimum(rows, num_seqs - 1, dtype=np.int32)
    owned = np.full(num_tokens, num_seqs - 1, np.int32)
    counts = np.diff(batch.query_start)
    owned[: batch.query_start[-1]] = np.repeat(np.arange(num_seqs, dtype=np.int32), counts)
    return owned
