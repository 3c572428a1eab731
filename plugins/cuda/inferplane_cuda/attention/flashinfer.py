"""Paged attention through FlashInfer (Ye et al. 2025, arXiv 2501.01005), where it is asked for.

A step is planned once, outside of captured graphs; all layers and every replay run by that plan. S
sequences, W blocks of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

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
from inferplane_cuda.attention.flashinfer_modules import Modules, package_problem
from inferplane_cuda.persistent.tape import settle
from inferplane_triton.gpu.paging import list_blocks, write_tokens

__all__ = ["FlashInferAttention"]

_FLOAT_BYTES = 256 << 20
_INT_BYTES = 8 << 20
"""Work space of all wrappers: only one runs at a time."""
_HEAD_DIMS = (64, 128, 256)


@dataclass(frozen=True, slots=True)
class _Static:
    """The fixed part of a step's launches."""

    decodes: int
    seqs: int
    first_row: int
    """Token row where prompts begin."""
    graph: bool
    """Runs in a bucket of decodes, by that bucket's own wrapper."""


@dataclass(slots=True)
class _Step:
    """A step on the host. Called once before its first run or replay."""

    owner: FlashInferAttention
    static: _Static
    width: int
    """W"""
    pages: Array
    """i32[S+1]: where the blocks of each sequence begin in the list of all."""
    last: Array
    """i32[S]: tokens in the last block of each."""
    queries: Array
    """i32[S+1]: token rows."""
    indices: Tensor | None = None
    listed: set[bool] = field(default_factory=set)
    """Whether blocks were listed in a run and in a capture."""
    planned: bool = False

    def __call__(self) -> None:
        if not self.planned:
            self.planned = True
            self.owner.plan(self)


@dataclass(slots=True)
class _Wrapper:
    """One of FlashInfer's wrappers, and what guards the pinned memory that its plans write."""

    run: Any
    indices: Tensor | None = None
    copied: Any = None
    """Over when the last plan has left that memory."""

    def plan(self, *arguments: Any, **settings: Any) -> None:
        if self.copied is not None:
            self.copied.synchronize()
        self.run.plan(*arguments, **settings)
        event: Any = torch.cuda.Event
        self.copied = event()
        self.copied.record()


class FlashInferAttention(AttentionBackend):
    """Decodes with tensor cores; prompts and chunks by the FA3 kernels where these are compiled."""

    layouts: ClassVar[tuple[str, ...]] = ("nhd",)
    block_multiple: ClassVar[int] = 16
    graph: ClassVar[Literal["never", "decode", "always"]] = "decode"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        self._device = torch.device(device.torch_device)
        package: Any = import_module("flashinfer")
        self._decode_kind = package.BatchDecodeWithPagedKVCacheWrapper
        self._float = torch.zeros(_FLOAT_BYTES, dtype=torch.uint8, device=self._device)
        self._int = torch.empty(_INT_BYTES, dtype=torch.uint8, device=self._device)
        self._decode = self._made(self._decode_kind(self._float, "NHD", use_tensor_cores=True))
        modern = _modules(spec).is_compiled("fa3")
        modern = modern and torch.cuda.get_device_capability(self._device)[0] == 9
        self._prompts = self._made(
            package.BatchPrefillWithPagedKVCacheWrapper(
                self._float, "NHD", backend="fa3" if modern else "fa2"
            )
        )
        self._captured: dict[int, _Wrapper] = {}
        dtype = getattr(torch, spec.dtype)
        self._settings = {
            "sm_scale": spec.scale,
            "window_left": -1 if spec.window is None else spec.window - 1,
            "logits_soft_cap": spec.softcap,
            "q_data_type": dtype,
            "kv_data_type": dtype,
        }

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """16-bit decoder attention with heads of 64, 128 or 256, once its kernels are compiled.

        Whatever else is wrong with the layer, a package that is missing is said too.
        """
        missing = package_problem()
        reasons = [missing] if missing else []
        if not (spec.causal and spec.cached):
            reasons.append("serves causal attention over a cache, not an encoder's")
        if spec.latent:
            reasons.append("is not wired to latent (MLA) attention")
        if spec.sinks:
            reasons.append("has no attention sinks in these kernels")
        if spec.head_dim not in _HEAD_DIMS or spec.head_dim_v != spec.head_dim:
            reasons.append(f"heads of {spec.head_dim}/{spec.head_dim_v} are not 64, 128 or 256")
        if spec.dtype not in ("float16", "bfloat16"):
            reasons.append(f"computes in float16 or bfloat16, not {spec.dtype}")
        if spec.kv_dtype not in ("auto", spec.dtype):
            reasons.append(f"reads a cache of {spec.dtype}, not {spec.kv_dtype}")
        if reasons:
            return tuple(reasons)
        problem = _modules(spec).problem()
        return (problem,) if problem else ()

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Where each sequence's blocks begin in the list of all, which the device makes."""
        if bucket is not None:
            batch = pad(batch, bucket, self._spec.block_size)
        lengths = np.diff(batch.query_start)
        decodes = batch.num_decodes if (lengths[: batch.num_decodes] == 1).all() else 0
        graph = bucket is not None and bucket.num_tokens == bucket.num_seqs
        if graph:
            decodes = len(lengths)
        size = self._spec.block_size
        counts = -(-batch.seq_lens // size)
        pages = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        last = (batch.seq_lens - np.maximum(counts - 1, 0) * size).astype(np.int32)
        tables = batch.block_tables[self._spec.group]
        first = int(batch.query_start[decodes])
        static = _Static(decodes, len(lengths), first, graph)
        queries = (batch.query_start[decodes:] - first).astype(np.int32)
        step = _Step(self, static, tables.shape[1], pages, last, queries)
        arrays = {"tables": tables, "pages": pages, "slots": batch.slots[self._spec.group]}
        return AttentionMeta(static, arrays, step)

    def plan(self, step: _Step) -> None:
        """Plan decodes and prompts; the host waits for nothing but the copy of the plan before."""
        spec, static = self._spec, step.static
        pages, last = torch.from_numpy(step.pages), torch.from_numpy(step.last)
        heads = spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.block_size
        cut = static.decodes
        indices = self._indices(step)
        if static.graph:
            wrapper = self._of_bucket(static.seqs, step.width)
            wrapper.plan(pages, indices[:0], last, *heads, **self._settings)
            return
        if cut:
            held = indices[: int(step.pages[cut])]
            self._decode.plan(pages[: cut + 1], held, last[:cut], *heads, **self._settings)
        if cut < static.seqs:
            begin = int(step.pages[cut])
            self._prompts.plan(
                torch.from_numpy(step.queries), pages[cut:] - begin, indices[begin:], last[cut:],
                *heads, causal=True, **self._settings,
            )  # fmt: skip

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """q[T,N,H], k[T,K,H], v[T,K,H] -> [T,N,H]; keys and values lie in [B,S,K,H]."""
        step, handle = cast(_Step, meta.host), cast(PagedKV, kv)
        settle()
        self._list_blocks(step, meta)
        step()
        if k is not None and v is not None:
            write_tokens(k, v, handle.k, handle.v, meta.arrays["slots"])
        static, q = step.static, q.contiguous()
        out = torch.zeros_like(q)
        held, cut = (handle.k, handle.v), static.decodes
        if static.graph:
            self._captured[static.seqs].run.run(q, held, out=out)
            return out
        if cut:
            self._decode.run.run(q[:cut], held, out=out[:cut])
        if cut < static.seqs:
            rows = slice(static.first_row, static.first_row + int(step.queries[-1]))
            self._prompts.run.run(q[rows], held, out=out[rows])
        return out

    def _indices(self, step: _Step) -> Tensor:
        """i32: the blocks of all sequences. Zeros at first: a rehearsed step lists none, and these
        kernels run all the same."""
        if step.indices is None:
            if step.static.graph:
                step.indices = self._of_bucket(step.static.seqs, step.width).indices
            else:
                size = int(step.pages[-1])
                step.indices = torch.zeros(size, dtype=torch.int32, device=self._device)
        assert step.indices is not None
        return step.indices

    def _list_blocks(self, step: _Step, meta: AttentionMeta) -> None:
        """Once a run, by its first layer; a capture must hold the launch as well."""
        capturing = torch.cuda.is_current_stream_capturing()
        if capturing in step.listed:
            return
        step.listed.add(capturing)
        list_blocks(meta.arrays["tables"], meta.arrays["pages"], self._indices(step))

    def _of_bucket(self, seqs: int, width: int) -> _Wrapper:
        """A wrapper whose buffers never move, for `seqs` sequences of at most `width` blocks."""
        wrapper = self._captured.get(seqs)
        if wrapper is None:
            rows: dict[str, Any] = {"dtype": torch.int32, "device": self._device}
            indices = torch.zeros(seqs * width, **rows)
            made = self._decode_kind(
                self._float,
                "NHD",
                use_cuda_graph=True,
                use_tensor_cores=True,
                paged_kv_indptr_buffer=torch.zeros(seqs + 1, **rows),
                paged_kv_indices_buffer=indices,
                paged_kv_last_page_len_buffer=torch.zeros(seqs, **rows),
            )
            wrapper = self._captured[seqs] = self._made(made)
            wrapper.indices = indices
        return wrapper

    def _made(self, wrapper: Any) -> _Wrapper:
        wrapper.reset_workspace_buffer(self._float, self._int)
        return _Wrapper(wrapper)


def _modules(spec: AttentionSpec) -> Modules:
    return Modules(spec.dtype, spec.head_dim, spec.window is not None, spec.softcap is not None)
