"""The core's attention for encoders: every token sees all of its own text, and nothing is kept.

T tokens, S sequences, L longest sequence of a step, N heads, K KV heads, H head size.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

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
from inferplane.ops.reference.attention import attend_texts

__all__ = ["WholeTextAttention"]


class WholeTextAttention(AttentionBackend):
    """Lays a step's texts side by side in one rectangle [S,L] and attends within its rows."""

    encoders = True

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._scale = spec.scale

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Both directions, over whole texts."""
        checks = (
            (not spec.causal, "attends in both directions only"),
            (not spec.cached, "keeps nothing for later steps"),
            (spec.window is None, "a window: not implemented"),
            (spec.softcap is None, "a soft cap: not implemented"),
            (not spec.sinks, "sinks: not implemented"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """`rows` i32[S,L]: the token row at each place; `lengths` i32[S]; `places` i32[T]."""
        lengths_S = np.diff(batch.query_start)
        longest = int(lengths_S.max(initial=1))
        place = np.arange(longest, dtype=np.int32)
        inside = np.minimum(place, np.maximum(lengths_S[:, None] - 1, 0))
        rows_SL = (batch.query_start[:-1, None] + inside).astype(np.int32)
        owner_T = np.repeat(np.arange(len(lengths_S)), lengths_S)
        places_T = owner_T * longest + np.arange(len(owner_T)) - batch.query_start[owner_T]
        arrays = {
            "rows": rows_SL,
            "lengths": lengths_S.astype(np.int32),
            "places": places_T.astype(np.int32),
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
        """Reads this step's keys and values alone."""
        assert k is not None and v is not None
        arrays = meta.arrays
        return attend_texts(
            (q, k, v), arrays["rows"], arrays["lengths"], arrays["places"], self._scale
        )
