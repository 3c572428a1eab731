"""Paged attention that can be an instruction among others, where a step is noted on a tape."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from inferplane.execution.torch_kv_store import PagedKV
from inferplane.interfaces import AttentionMeta
from inferplane_cuda.persistent.tape import AttentionCall, Tape, tape_for
from inferplane_triton.attention.paged import PagedAttention, StepPlan

__all__ = ["TapedAttention"]

_LOG2_E = 1.4426950408889634
_SIZES = (64, 128, 256)
_MOST_MEMBERS = 8


class TapedAttention(PagedAttention):
    """Triton's kernels; the decode of one row goes onto the tape that runs."""

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """q[T,N,H], k[T,K,H], v[T,K,Hv] -> [T,N,Hv]; keys and values lie in [B,S,K,H]."""
        tape = tape_for(q.reshape(1, -1)) if len(q) == 1 and k is not None else None
        if tape is not None and k is not None and v is not None and sinks is None:
            plan = cast(StepPlan, meta.static)
            if isinstance(kv, PagedKV) and self._is_noted(plan, v, kv):  # not one in 8 bits
                return self._note(tape, (q, k, v), kv, meta)
            tape.flush()
        return super().forward(q, k, v, kv, meta, sinks)

    def _is_noted(self, plan: StepPlan, v: Tensor, kv: PagedKV) -> bool:
        spec = self._spec
        return (
            self._plain
            and plan.num_decodes == 1
            and plan.num_items > 0
            and not plan.num_tiles
            and spec.head_dim in _SIZES
            and self._group <= _MOST_MEMBERS
            and kv.k.dtype == kv.v.dtype == v.dtype
            and v.stride(1) == v.shape[2]
            and v.stride(2) == 1
        )

    def _note(
        self, tape: Tape, new: tuple[Tensor, Tensor, Tensor], kv: PagedKV, meta: AttentionMeta
    ) -> Tensor:
        spec, items = self._spec, meta.arrays["items"]
        q, k, v = new
        part, stat, arrivals = self._scratch.take(len(items), 1)
        out = torch.empty((1, spec.num_heads, spec.head_dim), dtype=q.dtype, device=q.device)
        call = AttentionCall(
            heads=(spec.num_kv_heads, self._group, spec.head_dim),
            page=spec.block_size,
            scale=spec.scale * _LOG2_E,
            items=len(items),
            pointers=(kv.k, kv.v, out, part, stat, arrivals, items, meta.arrays["tables"]),
        )
        tape.attend(q, k, v, call)
        return out
