"""torch_xla's ragged paged attention, a Pallas kernel for TPUs.

Nothing here ran on a chip; the twin in plain torch that torch_xla ships beside the kernel gives, on
the arguments made here, what the kit expects.
T tokens, S sequences, N heads, H head size, P its padded size.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
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
from inferplane.shapes import pad
from inferplane_tpu import _sdk
from inferplane_tpu.attention.paged import refusals
from inferplane_tpu.pages import LAYOUT, Pages
from inferplane_tpu.tiling import PALLAS, tiles

__all__ = ["RaggedAttention"]


class RaggedAttention(AttentionBackend):
    """Cost follows the tokens that are there: padding is told to the kernel, not computed."""

    layouts = (LAYOUT,)
    graph: ClassVar[Literal["never", "decode", "always"]] = "always"
    use_kernel: ClassVar[bool] = True
    """False: torch_xla's twin in plain torch, which cannot be traced."""

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        self._run = _sdk.ragged_attention()

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Layers without sinks, on chips."""
        reasons = list(refusals(spec))
        if PALLAS not in caps.labels:
            reasons.append("is a Pallas kernel, and this device runs none: no TPU of v4 or later")
        if spec.sinks:
            reasons.append("knows no attention sinks")
        if not tiles(spec.num_kv_heads, spec.kv_dtype):
            reasons.append(f"{spec.num_kv_heads} KV heads in {spec.kv_dtype} fill no whole tiles")
        return tuple(reasons)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """The kernel's own padding: sequences beyond `num_seqs` are not looked at."""
        spec, num_seqs = self._spec, len(batch.seq_lens)
        if bucket is not None:
            batch = pad(batch, bucket, spec.block_size)
        num_tokens = int(batch.query_start[num_seqs])
        arrays = {
            "slots": batch.slots[spec.group],
            "kv_lens": batch.seq_lens,
            "tables": batch.block_tables[spec.group],
            "query_start": np.minimum(batch.query_start, num_tokens),
            "num_seqs": np.array([num_seqs], np.int32),
            "num_tokens": np.array([num_tokens], np.int32),
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
        """Writes, then calls the kernel on heads padded to whole lanes."""
        assert isinstance(kv, Pages)
        spec, arrays = self._spec, meta.arrays
        if k is not None and v is not None:
            kv.write(arrays["slots"], k, v)
        width = kv.content.shape[-1]
        out = self._run(
            F.pad(q.to(kv.content.dtype), (0, width - q.shape[-1])),
            kv.content,
            arrays["kv_lens"],
            arrays["tables"],
            arrays["query_start"],
            arrays["num_seqs"],
            sm_scale=spec.scale,
            sliding_window=spec.window,
            soft_cap=spec.softcap,
            use_kernel=self.use_kernel,
        )
        # rows of padding hold whatever was in memory, and the next layer would keep it in block 0
        out = F.pad(out, (0, 0, 0, 0, 0, q.shape[0] - out.shape[0]))
        real = torch.arange(q.shape[0], device=q.device, dtype=torch.int32) < arrays["num_tokens"]
        return out[..., : spec.head_dim].masked_fill(~real[:, None, None], 0.0).to(q.dtype)
