"""Paged attention whose decodes read a cache in 8 bits by `coded.cu`."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from functools import lru_cache

from torch import Tensor

from inferplane.interfaces import AttentionMeta, AttentionSpec, Capabilities, Reasons
from inferplane_cuda.programs import Program, compiler_problem
from inferplane_triton.attention.cache_view import CODES, CacheView
from inferplane_triton.attention.paged import PagedAttention, StepPlan

__all__ = ["SOURCES", "CodedAttention", "CodedVariant"]

SOURCES = ("lanes.cu", "coded.cu")
_LOG2_E = 1.4426950408889634
_TILE = 16
_SIZES = (64, 128)
_MOST_MEMBERS = 8
_FEW = 8
"""Sequences up to which Triton's kernel, whose blocks are smaller, is as fast."""


@dataclass(frozen=True, slots=True)
class CodedVariant:
    """What is fixed while compiling; the names are the source's."""

    KV_HEADS: int
    GROUP: int
    HEAD: int
    PAGE: int
    LARGEST: int
    NEW: int
    K_STATIC: int
    V_STATIC: int
    HALF: int
    WARPS: int = 4
    DEPTH: int = 3
    RESIDENT: int = 4
    """Blocks that fit one multiprocessor, by registers."""

    @property
    def shared_bytes(self) -> int:
        """Of the tiles in flight, and later of what each warp found."""
        slot = 2 * _TILE * self.HEAD + 128
        return self.WARPS * max(self.DEPTH * slot, 8 * self.HEAD * 4)


class CodedAttention(PagedAttention):
    """Triton's kernels, but for one new token of each of many sequences."""

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Heads of 64 or 128 that share an even number of KV heads, a cache in int8 or fp8."""
        reasons = list(super().supports(spec, caps))
        if spec.kv_dtype not in CODES:
            reasons.append(f"reads a cache of {' or '.join(CODES)}, not {spec.kv_dtype}")
        if spec.head_dim not in _SIZES or spec.head_dim_v != spec.head_dim:
            reasons.append(f"has heads of 64 and 128, not {spec.head_dim} and {spec.head_dim_v}")
        if spec.num_heads > _MOST_MEMBERS * spec.num_kv_heads:
            reasons.append(f"at most {_MOST_MEMBERS} heads share a KV head")
        if spec.num_kv_heads % 2:  # two heads' scales are brought at once
            reasons.append(f"{spec.num_kv_heads} KV heads are an odd number")
        if spec.block_size % _TILE:
            reasons.append(f"blocks of {spec.block_size} are not whole tiles of {_TILE} tokens")
        if spec.dtype == "float32":
            reasons.append("no kernel for dtype float32")
        if spec.window is not None or spec.softcap is not None or spec.sinks:
            reasons.append("has no window, soft cap or sinks")
        if caps.fp8 != "e4m3fn":
            reasons.append("needs the instructions for fp8 of sm_89 and later")
        if problem := compiler_problem():
            reasons.append(problem)
        return tuple(reasons)

    def _run_decode(
        self,
        plan: StepPlan,
        meta: AttentionMeta,
        new: tuple[Tensor, Tensor | None, Tensor | None],
        cache: CacheView,
        out: Tensor,
        sinks: Tensor | None,
    ) -> None:
        if plan.num_decodes <= _FEW:
            super()._run_decode(plan, meta, new, cache, out, sinks)
            return
        q, k, v = new
        variant = self._variant(cache, k is not None)
        items, tables = meta.arrays["items"], meta.arrays["tables"]
        part, stat, arrivals = self._scratch.take(plan.num_items, plan.num_decodes)
        k, v = q if k is None else k, q if v is None else v
        (scale,) = struct.unpack("i", struct.pack("f", self._spec.scale * _LOG2_E))
        program, shared = _program(variant), variant.shared_bytes
        function, threads = program.function("attend"), 32 * variant.WARPS
        program.resident_blocks(function, threads, shared)  # allows the memory
        arguments = (
            q, k, v, cache.k, cache.v, cache.k_scales, cache.v_scales, cache.k_static,
            cache.v_static, out, part, stat, arrivals, items, tables, scale, tables.stride(0),
            q.stride(0), k.stride(0), v.stride(0), cache.k.stride(0), cache.v.stride(0),
        )  # fmt: skip
        grid = variant.KV_HEADS, plan.num_items
        program.launch(function, grid, threads, arguments, shared)

    def _variant(self, cache: CacheView, is_new: bool) -> CodedVariant:
        spec = self._spec
        return CodedVariant(
            KV_HEADS=spec.num_kv_heads,
            GROUP=self._group,
            HEAD=spec.head_dim,
            PAGE=spec.block_size,
            LARGEST=cache.largest,
            NEW=int(is_new),
            K_STATIC=int(cache.statics["K_STATIC"]),
            V_STATIC=int(cache.statics["V_STATIC"]),
            HALF=int(spec.dtype == "float16"),
        )


@lru_cache(maxsize=32)
def _program(variant: CodedVariant) -> Program:
    return Program(__package__ or "", SOURCES, asdict(variant))
