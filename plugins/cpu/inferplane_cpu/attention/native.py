"""Attention by the C++ kernels over panel-shaped blocks; inside a compiled step it is one node.

T tokens, S sequences, P table width, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from inferplane.errors import DeviceError
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
from inferplane_cpu.compiler.capture import NotLoweredError, Symbol
from inferplane_cpu.native.coded import CodedPanelKV
from inferplane_cpu.native.library import Op
from inferplane_cpu.native.machine import Machine, ProgramBuilder, StepArrays
from inferplane_cpu.native.panels import PanelKV
from inferplane_cpu.native.store import BLOCK_SIZES, LAYOUT

__all__ = ["NativeAttention"]

_Panels: TypeAlias = PanelKV | CodedPanelKV
_STORED = {False: ("float32", "bfloat16"), True: ("float32", "bfloat16", "int8", "fp8")}
"""By whether the model computes in bfloat16, to which the kernels widen codes."""


class NativeAttention(AttentionBackend):
    """Prefill, decode and mixed steps; results of a row do not depend on its neighbours."""

    layouts = (LAYOUT,)
    block_multiple = 16
    graph: ClassVar[Literal["never", "decode", "always"]] = "always"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        machine = getattr(device, "machine", None)
        if not isinstance(machine, Machine):
            raise DeviceError("the native attention needs the CPU plugin's own runtime")
        self._machine = machine

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """What the kernels were written for."""
        checks = (
            (spec.causal, "attends causally only"),
            (spec.cached, "needs a KV cache"),
            (not spec.latent, "latent attention: not implemented"),
            (not spec.sinks, "attention sinks: not implemented"),
            (
                spec.head_dim % 16 == 0 and spec.head_dim_v % 16 == 0,
                f"head_dim {spec.head_dim}: needs a multiple of 16",
            ),
            (spec.head_dim == spec.head_dim_v, "keys and values of different sizes"),
            (
                spec.block_size in BLOCK_SIZES,
                f"block_size {spec.block_size}: needs one of {BLOCK_SIZES}",
            ),
            (spec.head_dim <= 512, f"head_dim {spec.head_dim}: at most 512"),
            (
                spec.kv_dtype in _STORED[spec.dtype == "bfloat16"],
                f"kv_dtype {spec.kv_dtype}: stores {', '.join(_STORED[True])}, codes for bfloat16",
            ),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """The step's own arrays; nothing is computed from them."""
        if bucket is not None:
            batch = pad(batch, bucket, self._spec.block_size)
        group = self._spec.group
        arrays = {
            "query_start": batch.query_start,
            "seq_lens": batch.seq_lens,
            "tables": np.ascontiguousarray(batch.block_tables[group]),
            "slots": batch.slots[group],
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
        """Records itself during capture; otherwise runs a program of at most two instructions."""
        assert isinstance(kv, (PanelKV, CodedPanelKV))
        if type(q) is Symbol:
            if k is None or v is None:
                raise NotLoweredError("attention over what another layer wrote")
            return self._record(q, k, v, kv, meta)
        return self._run(q, k, v, kv, meta)

    def _record(self, q: Symbol, k: Tensor, v: Tensor, kv: _Panels, meta: AttentionMeta) -> Tensor:
        assert type(k) is Symbol and type(v) is Symbol
        spec = self._spec
        return q.recording.add(
            "attend",
            (q, k, v),
            (spec.num_heads, spec.head_dim_v),
            kv=kv,
            arrays=dict(meta.arrays),
            heads=spec.num_heads,
            kv_heads=spec.num_kv_heads,
            dim=spec.head_dim,
            dim_v=spec.head_dim_v,
            scale=spec.scale,
            window=spec.window,
            softcap=spec.softcap,
        )

    def _run(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, kv: _Panels, meta: AttentionMeta
    ) -> Tensor:
        spec, arrays = self._spec, meta.arrays
        row = torch.cat([x.flatten(1) for x in (q, k, v) if x is not None], 1).float()
        tokens, width = row.shape
        builder = ProgramBuilder(self._machine, tokens, 1)
        source, target = builder.buffer(width), builder.buffer(spec.num_heads * spec.head_dim_v)
        fields = {
            "src": source,
            "layer": builder.cache(kv.structure()),
            "heads": spec.num_heads,
            "kv_heads": spec.num_kv_heads,
            "dim": spec.head_dim,
            "dim_v": spec.head_dim_v,
        }
        if k is not None:
            builder.emit(Op.ROTARY, rotary=0, **fields)
        builder.emit(
            Op.ATTEND,
            dst=target,
            scale=spec.scale,
            window=spec.window or 0,
            softcap=spec.softcap or 0.0,
            **fields,
        )
        tables = arrays["tables"]
        program = builder.build(len(tables), tables.shape[1] * spec.block_size)
        program.buffers[source].copy_(row)
        nothing = torch.zeros(0, dtype=torch.int32)
        ids = torch.zeros(tokens, dtype=torch.int32)
        program.run(
            StepArrays(
                ids,
                ids,
                arrays["query_start"],
                arrays["seq_lens"],
                nothing,
                (tables,),
                (arrays["slots"],),
            )
        )
        out = program.buffers[target].view(tokens, spec.num_heads, spec.head_dim_v)
        return out.to(q.dtype)
