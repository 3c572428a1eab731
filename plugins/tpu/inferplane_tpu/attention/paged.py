"""Paged attention that XLA compiles by itself: each token gathers the whole table of its sequence.

Correct everywhere and traceable, but its cost grows with the longest context, not the present one.
T tokens, N heads, K KV heads, H head
size, S sequences, P blocks a table row holds, C context slots.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from inferplane.execution.reference_attention import owners
from inferplane.interfaces import (
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
from inferplane_tpu.pages import LAYOUT, Pages

__all__ = ["GatheredAttention", "gathered_elements", "refusals"]

_MOST_GATHERED = 1 << 24
"""Elements gathered at once; longer steps are cut into pieces of tokens."""
_NEVER = -1e30


def gathered_elements(max_context: int, kv_width: int) -> int:
    """Elements that one token gathers; `kv_width` = 2 * KV heads * padded head size."""
    return max_context * kv_width


def refusals(spec: AttentionSpec) -> Reasons:
    """Why pages cannot hold what a layer keeps."""
    checks = (
        (spec.causal, "attends causally only"),
        (spec.cached, "needs a KV cache"),
        (not spec.latent, "latent attention: not implemented"),
        (
            spec.head_dim == spec.head_dim_v,
            f"keys of {spec.head_dim} and values of {spec.head_dim_v} cannot share a page",
        ),
        (
            spec.kv_dtype in ("float32", "bfloat16"),
            f"KV in {spec.kv_dtype}: pages hold float32 or bfloat16",
        ),
    )
    return tuple(reason for holds, reason in checks if not holds)


class GatheredAttention(AttentionBackend):
    """Windows, soft caps and sinks included."""

    layouts = (LAYOUT,)
    graph: ClassVar[Literal["never", "decode", "always"]] = "always"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Whatever pages can hold."""
        return refusals(spec)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Slots, tables and the sequence of each token row."""
        spec = self._spec
        if bucket is not None:
            batch = pad(batch, bucket, spec.block_size)
        arrays = {
            "slots": batch.slots[spec.group],
            "tables": batch.block_tables[spec.group],
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
        """Writes, then gathers in pieces of tokens."""
        assert isinstance(kv, Pages)
        arrays, size = meta.arrays, self._spec.block_size
        if k is not None and v is not None:
            kv.write(arrays["slots"], k, v)
        tables, positions = arrays["tables"], arrays["positions"]
        rows_TP = tables.index_select(0, arrays["owners"])
        offsets = torch.arange(size, device=tables.device, dtype=tables.dtype)
        width = kv.content.shape[2] * kv.content.shape[3]
        piece = max(1, _MOST_GATHERED // gathered_elements(tables.shape[1] * size, width))
        out = []
        for start in range(0, q.shape[0], piece):
            part = slice(start, start + piece)
            slots_TC = (rows_TP[part, :, None] * size + offsets).flatten(1)
            out.append(self._attend(q[part], kv, slots_TC, positions[part], sinks))
        return out[0] if len(out) == 1 else torch.cat(out)

    def _attend(
        self, q: Tensor, kv: Pages, slots_TC: Tensor, positions: Tensor, sinks: Tensor | None
    ) -> Tensor:
        """q[T,N,H] over the places 0..C-1 of each token's sequence."""
        spec, (num_tokens, num_slots) = self._spec, slots_TC.shape
        k, v = (
            x.reshape(num_tokens, num_slots, *x.shape[1:]).float()
            for x in kv.read(slots_TC.flatten())
        )
        place = torch.arange(num_slots, device=q.device, dtype=positions.dtype)
        seen = place <= positions[:, None]
        if spec.window is not None:
            seen = seen & (place > positions[:, None] - spec.window)
        # what lies in unused places must not come through as 0 x infinity
        v = v.masked_fill(~seen[:, :, None, None], 0.0)
        grouped = q.float().reshape(num_tokens, spec.num_kv_heads, -1, q.shape[-1])
        scores = torch.einsum("tkgh,tckh->tkgc", grouped, k) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        scores = scores.masked_fill(~seen[:, None, None], _NEVER)
        if sinks is not None:
            sink = sinks.float().reshape(spec.num_kv_heads, -1, 1).expand(num_tokens, -1, -1, 1)
            scores = torch.cat((scores, sink), -1)
        weights = scores.softmax(-1)[..., :num_slots]
        return torch.einsum("tkgc,tckh->tkgh", weights, v).flatten(1, 2).to(q.dtype)
