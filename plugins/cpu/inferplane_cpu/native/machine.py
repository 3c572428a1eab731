"""Threads, working memory and the run of a native program.

A `ProgramBuilder` collects instructions over row buffers; `build` freezes them; `NativeProgram.run`
executes one step with the GIL released. Nothing here knows where the instructions came from.
"""

from __future__ import annotations

import ctypes
from ctypes import CDLL
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inferplane_cpu.native.arena import zero_rows
from inferplane_cpu.native.library import (
    Buffer,
    Cache,
    Group,
    Instruction,
    Kind,
    Op,
    Program,
    Prologue,
    Step,
)
from inferplane_cpu.native.packing import PackedWeight

__all__ = ["Machine", "NativeProgram", "ProgramBuilder", "StepArrays"]


class Machine:
    """The library and its worker threads; one for each executor."""

    def __init__(self, library: CDLL, cpus: tuple[int, ...], tiles: bool = False) -> None:
        """`cpus`: processor of each thread, -1 = any; the first, the caller, is not pinned here.
        `tiles`: many rows take the kernels for matrix tiles, which `native.tiles` has proven.
        """
        self.library = library
        self.tiles = tiles
        self.threads = len(cpus)
        self._pool = library.ip_pool_create(self.threads, (ctypes.c_int * self.threads)(*cpus))
        self._lone = library.ip_pool_create(1, (ctypes.c_int * 1)(-1))

    @property
    def pool(self) -> int:
        """Handle of the thread pool."""
        return int(self._pool)

    @property
    def lone(self) -> int:
        """Handle of a pool that is the calling thread alone: nobody has to wake."""
        return int(self._lone)

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self.library.ip_pool_destroy(self._pool)
            self.library.ip_pool_destroy(self._lone)
            self._pool = self._lone = None


@dataclass(slots=True)
class StepArrays:
    """One step's int32 tensors: token_ids[T], positions[T], query_start[S+1], seq_lens[S],
    sample_rows[R]; for each group tables[S,P] and slots[T]."""

    token_ids: Tensor
    positions: Tensor
    query_start: Tensor
    seq_lens: Tensor
    sample_rows: Tensor
    tables: tuple[Tensor, ...]
    slots: tuple[Tensor, ...]


class ProgramBuilder:
    """Collects buffers, caches and instructions; keeps every tensor they point to alive."""

    def __init__(self, machine: Machine, max_tokens: int, max_samples: int) -> None:
        self.machine = machine
        self.max_tokens = max_tokens
        self.max_samples = max_samples
        self.buffers: list[Tensor] = []
        self.caches: list[Cache] = []
        self.instructions: list[Instruction] = []
        self._keep: list[Tensor] = []
        self._widest = 32
        self._shared = 0
        self._dims = [(16, 16)]
        self._widened = 0

    def buffer(self, width: int, per_sample: bool = False) -> int:
        """A new f32 row buffer; returns its number."""
        rows = self.max_samples if per_sample else self.max_tokens
        self.buffers.append(zero_rows(rows, width))
        return len(self.buffers) - 1

    def cache(self, cache: Cache) -> int:
        """A layer's KV; returns its number."""
        self.caches.append(cache)
        self._dims.append((cache.dim, cache.dim_v))
        if cache.kind in (Kind.INT8, Kind.FP8):
            widened = self.machine.library.ip_widened_bytes(cache.dim, cache.dim_v)
            self._widened = max(self._widened, widened)
        return len(self.caches) - 1

    def keep(self, tensor: Tensor | None) -> int:
        """Address of a contiguous tensor that lives as long as the program; 0 for None."""
        if tensor is None:
            return 0
        self._keep.append(tensor)
        return tensor.data_ptr()

    def emit(self, op: Op, **fields: Any) -> None:
        """Append one instruction; unnamed fields are 0, `scale` is 1."""
        self.instructions.append(Instruction(op=int(op), **{"scale": 1.0, **fields}))

    def linear(
        self,
        weight: PackedWeight,
        src: int,
        dst: int,
        *,
        prologue: Prologue = Prologue.NONE,
        norm: Tensor | None = None,
        eps: float = 0.0,
        **fields: Any,
    ) -> None:
        """dst (+)= prologue(src) x weight^T + bias; `fields` as in Instruction (bias a Tensor)."""
        per_sample = bool(fields.get("per_sample"))
        k = weight.in_features
        rows = self.max_samples if per_sample else self.max_tokens
        self._widest = max(self._widest, k)
        self._shared = max(self._shared, self.machine.library.ip_shared_bytes(weight.kind, k, rows))
        self.emit(
            Op.LINEAR,
            src=src,
            dst=dst,
            k=k,
            n=weight.out_features,
            kind=int(weight.kind),
            prologue=int(prologue),
            eps=eps,
            weight=self.keep(weight.data),
            weight_scale=self.keep(weight.scale),
            norm=self.keep(norm),
            **{**fields, "bias": self.keep(fields.get("bias"))},
        )

    def gate(self, prologue: Prologue, src: int, width: int) -> None:
        """The next linear alone reads `src`, gated by `prologue` to `width` columns: where the last
        instruction is the linear that fills `src`, that one may gate its sums itself.
        """
        last = self.instructions[-1] if self.instructions else None
        if last is None or prologue not in (Prologue.SILU_MUL, Prologue.GELU_MUL):
            return
        if (last.op, last.dst, last.dst_at, last.n, last.add) == (Op.LINEAR, src, 0, 2 * width, 0):
            last.gated = int(prologue)

    def build(self, max_seqs: int, max_context: int) -> NativeProgram:
        """Freeze; working memory is sized for the largest step."""
        return NativeProgram(self, max_seqs, max_context)

    @property
    def widened_bytes(self) -> int:
        """Of each thread, behind its scratch: what it widens of caches in 8 bits."""
        return self._widened

    def working_memory(self, max_seqs: int, max_context: int) -> tuple[int, int, int]:
        """(bytes of scratch a thread, bytes shared, floats of attention partials)."""
        library = self.machine.library
        rows = max(self.max_tokens, self.max_samples)
        scratch = max(library.ip_scratch_bytes(self._widest, rows, d, v) for d, v in self._dims)
        heads = max((c.kv_heads for c in self.caches), default=1)
        chunks = max_seqs * heads * (max_context // 512 + 2)
        partials = chunks * max(library.ip_partial_floats(v) for _, v in self._dims)
        return -(-scratch // 64) * 64, self._shared, min(partials, 1 << 24)


class NativeProgram:
    """A frozen program and its memory; runs one step at a time."""

    def __init__(self, builder: ProgramBuilder, max_seqs: int, max_context: int) -> None:
        self.machine = builder.machine
        self.buffers = builder.buffers
        self._builder = builder
        scratch, shared, partials = builder.working_memory(max_seqs, max_context)
        threads = self.machine.threads
        each = scratch + builder.widened_bytes
        self._scratch = [torch.zeros(each, dtype=torch.uint8) for _ in range(threads)]
        self._shared = zero_rows(1, shared // 4 + 16)
        self._partials = torch.zeros(partials)
        self._drawn = [torch.zeros(builder.max_samples, dtype=torch.int32) for _ in range(2)]
        self._instructions = (Instruction * len(builder.instructions))(*builder.instructions)
        self._buffers = (Buffer * len(self.buffers))(
            *(Buffer(b.data_ptr(), b.stride(0)) for b in self.buffers)
        )
        self._caches = (Cache * max(1, len(builder.caches)))(*builder.caches)
        self._threads = (ctypes.c_void_p * threads)(*(s.data_ptr() for s in self._scratch))
        self._program = Program(
            instructions=self._instructions,
            count=len(self._instructions),
            buffers=self._buffers,
            caches=self._caches,
            shared=self._shared.data_ptr(),
            shared_bytes=shared,
            scratch=self._threads,
            scratch_bytes=scratch,
            partials=self._partials.data_ptr(),
            partial_floats=partials,
            widened_at=scratch,
            tiles=int(self.machine.tiles),
        )

    @property
    def ids(self) -> Tensor:
        """i32[most samples]: of each sampled row the best token, -1 where there is none."""
        return self._drawn[0]

    def run(self, arrays: StepArrays, lone: bool = False) -> None:
        """Execute; results lie in the buffers and, first R entries, `ids`, which the next run
        leaves alone. `lone`: on the calling thread, which gives the same numbers.
        """
        self._drawn.reverse()
        groups = (Group * max(1, len(arrays.tables)))(
            *(
                Group(table.data_ptr(), table.shape[1], slots.data_ptr())
                for table, slots in zip(arrays.tables, arrays.slots, strict=True)
            )
        )
        step = Step(
            tokens=arrays.token_ids.numel(),
            seqs=arrays.seq_lens.numel(),
            samples=arrays.sample_rows.numel(),
            token_ids=arrays.token_ids.data_ptr(),
            positions=arrays.positions.data_ptr(),
            query_start=arrays.query_start.data_ptr(),
            seq_lens=arrays.seq_lens.data_ptr(),
            sample_rows=arrays.sample_rows.data_ptr(),
            groups=groups,
            ids=self.ids.data_ptr(),
        )
        pool = self.machine.lone if lone else self.machine.pool
        self.machine.library.ip_run(pool, self._program, step)
