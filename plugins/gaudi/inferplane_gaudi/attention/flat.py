"""The attention backend: writes to flat slots, then reads blocks in use or the rectangle itself.

T tokens, N heads, K KV heads, H head size, Hv value head size.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from inferplane.execution.quantized_kv import QuantizedKV
from inferplane.execution.reference_attention import owners
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
from inferplane.shapes import pad
from inferplane_gaudi.attention.lists import list_blocks
from inferplane_gaudi.attention.products import (
    Rule,
    attend_listed,
    attend_rectangle,
    seen_from,
)

__all__ = ["FlatAttention"]

_Form = Literal["prompt", "company", "continued", "listed"]


class FlatAttention(AttentionBackend):
    """Four forms, told by the bucket and fixed in its program.

    prompt: one prompt from its first token on, causal within its row, nothing is read back.
    company: rows of several prompts, each over the blocks of its own context. continued: one
    sequence over all blocks of its context. listed: rows over the list of blocks they use; decodes,
    and whatever has no bucket of this plugin.
    """

    layouts = ("nhd",)
    graph: ClassVar[Literal["never", "decode", "always"]] = "always"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        self._rule = Rule(spec.scale, spec.window, spec.softcap)

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Causal attention over a cache in the model's arithmetic or another plain dtype."""
        checks = (
            (spec.causal, "attends causally only"),
            (spec.cached, "needs a KV cache"),
            (not spec.latent, "latent attention: not implemented"),
            (not spec.drafts, "decodes one token of a sequence at a time"),
            (spec.dtype in caps.compute_dtypes, f"computes in {', '.join(caps.compute_dtypes)}"),
            (spec.kv_dtype in caps.kv_dtypes, f"stores KV in {', '.join(caps.kv_dtypes)}"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Slots, and whichever lists the form reads."""
        spec = self._spec
        if bucket is not None:
            batch = pad(batch, bucket, spec.block_size)
        form = _form(bucket)
        arrays = {"slots": batch.slots[spec.group]}
        if form == "continued":
            assert bucket is not None
            arrays["positions"] = batch.positions[None]
            arrays["blocks"] = _first(batch.block_tables[spec.group][0], bucket.context_blocks)[
                None
            ]
        elif form == "company":
            assert bucket is not None
            width = -(-bucket.max_context // spec.block_size)
            arrays["positions"] = batch.positions.reshape(bucket.num_seqs, bucket.max_query)
            tables = batch.block_tables[spec.group]
            arrays["blocks"] = np.stack([_first(table, width) for table in tables])
        elif form == "listed":
            arrays |= self._lists(batch, bucket)
        return AttentionMeta(static=form, arrays=arrays)

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Writes first, so that every token finds itself."""
        assert isinstance(kv, (PagedKV, QuantizedKV))
        slots = meta.arrays["slots"]
        if k is not None and v is not None:
            kv.write(slots, k, v)
        if meta.static == "listed":
            held = self._blocks(kv, meta.arrays["blocks"])
            return attend_listed(q, held, meta.arrays, self._rule, sinks)
        if meta.static in ("company", "continued"):
            return self._attend_contexts(q, kv, meta, sinks)
        if k is None or v is None or isinstance(kv, QuantizedKV):  # what was just written
            k, v = kv.read(slots)
        k, v = (x.to(q.dtype) for x in (self._as_kept(kv, k), self._as_kept(kv, v)))
        seen = None
        if self._spec.window is not None:
            place = torch.arange(len(q), dtype=torch.int32, device=q.device)[None]
            seen = seen_from(place, len(q), self._spec.window)
        return attend_rectangle(q[None], k[None], v[None], self._rule, seen, sinks)[0]

    def _attend_contexts(
        self, q: Tensor, kv: PagedKV | QuantizedKV, meta: AttentionMeta, sinks: Tensor | None
    ) -> Tensor:
        """Each row of the rectangle over the blocks of its own context."""
        blocks, positions = meta.arrays["blocks"], meta.arrays["positions"]
        held = self._blocks(kv, blocks.flatten())
        rows = blocks.shape[0]
        keys, values = (torch.unflatten(x.flatten(0, 1), 0, (rows, -1)).to(q.dtype) for x in held)
        seen = seen_from(positions, keys.shape[1], self._spec.window)
        asked = torch.unflatten(q, 0, (rows, -1))
        return attend_rectangle(asked, keys, values, self._rule, seen, sinks).flatten(0, 1)

    def _blocks(self, kv: PagedKV | QuantizedKV, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [L,S,K,H] and values [L,S,K,Hv] of whole blocks i32[L]."""
        if isinstance(kv, PagedKV):
            return kv.k.index_select(0, blocks), kv.v.index_select(0, blocks)
        k, v = kv.gather(blocks)
        shape = (-1, self._spec.block_size)
        return torch.unflatten(k, 0, shape), torch.unflatten(v, 0, shape)

    def _as_kept(self, kv: PagedKV | QuantizedKV, new: Tensor) -> Tensor:
        """Rounded as the cache rounds, so that a prompt's pieces meet the same numbers."""
        return new.to(kv.k.dtype) if isinstance(kv, PagedKV) else new

    def _lists(self, batch: StepBatch, bucket: Bucket | None) -> dict[str, Array]:
        spec = self._spec
        tables = batch.block_tables[spec.group]
        if bucket is not None and bucket.graph == "decode" and bucket.context_blocks:
            rows, length = tables, bucket.context_blocks
        else:  # every token is a row; its blocks are listed once for each
            rows = tables[owners(batch, bucket)]
            length = 0 if bucket is None else rows.size
        return list_blocks(rows, batch.positions, spec.block_size, spec.window, length)


def _form(bucket: Bucket | None) -> _Form:
    if bucket is None or bucket.graph != "prefill" or not bucket.rectangular:
        return "listed"
    if bucket.num_seqs > 1:
        return "company"
    return "continued" if bucket.context_blocks else "prompt"


def _first(values: Array, count: int) -> Array:
    out = np.zeros(count, np.int32)
    out[: min(count, len(values))] = values[:count]
    return out
