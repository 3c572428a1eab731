"""Paged attention on any device with a Triton code generator, NHD layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import torch
import triton
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
from inferplane.shapes import pad
from inferplane_triton.attention import work
from inferplane_triton.attention.cache_view import CODES, CacheView, view_cache
from inferplane_triton.attention.whole import ROUND, attend_everything, attend_whole
from inferplane_triton.device.cache import write_codes, write_slots
from inferplane_triton.device.decode import decode_items
from inferplane_triton.device.prefill import prefill_tiles
from inferplane_triton.tuning import decode_tuning, prefill_tuning, target

__all__ = ["PagedAttention", "StepPlan"]

_LOG2_E = 1.4426950408889634
_FEW_TOKENS = 128
"""Below so many new tokens a call of the vendor's kernel costs more than it saves."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The fixed part of a step's launches."""

    num_decodes: int
    """Leading sequences of one token each, served by the split kernel."""
    num_items: int
    num_tiles: int
    first_row: int
    """Token row where the sequences of the tile kernel begin."""
    idle_rows: bool
    """Some token rows may belong to no sequence."""
    whole: tuple[tuple[int, int], ...] = ()
    """Token rows of long prompts without context."""
    prompts: tuple[int, int, int] = (0, 0, 0)
    """(first token row, last + 1, longest) of neighbouring prompts left to the vendor's kernel."""
    only_whole: bool = False
    """They are all there is, equally long, and no length is rounded up."""


class PagedAttention(AttentionBackend):
    """Split-context kernel for decodes, tiled kernel for everything else."""

    layouts: ClassVar[tuple[str, ...]] = ("nhd",)
    block_multiple: ClassVar[int] = 16
    graph: ClassVar[Literal["never", "decode", "always"]] = "always"

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        self._spec = spec
        self._group = spec.num_heads // spec.num_kv_heads
        self._pads = _power_of_two(spec.head_dim), _power_of_two(spec.head_dim_v)
        found = target()
        itemsize = 4 if spec.dtype == "float32" else 2
        capped, coded = spec.softcap is not None, spec.kv_dtype in CODES
        self._decode = decode_tuning(found, max(self._pads), itemsize, coded)
        self._prefill = prefill_tuning(found, max(self._pads), itemsize, capped, coded)
        programs = found.units * self._decode.programs_per_unit
        self._piece_slots = max(1, programs // spec.num_kv_heads)
        self._tile_rows = max(self._prefill.rows, _power_of_two(self._group))
        self._tile_tokens = self._tile_rows // self._group
        self._upcast = found.backend == "interpreter" and spec.dtype == "bfloat16"
        self._target = found
        self._ptx = found.backend == "cuda" and int(found.arch) >= 80
        ruled = spec.window is not None or spec.softcap is not None or spec.sinks
        self._plain = not ruled and spec.head_dim == spec.head_dim_v
        self._prompts = None
        if self._plain:
            self._prompts = device.prompt_attention(spec.head_dim, spec.dtype)
        self._scratch = _Scratch(spec, torch.device(device.torch_device))

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """Decoder attention over a cache in the compute type or 8 bits, heads of at most 256."""
        reasons = []
        if not (spec.causal and spec.cached):
            reasons.append("serves causal attention over a cache, not an encoder's")
        if spec.latent:
            reasons.append("has no kernel for latent (MLA) attention")
        if max(spec.head_dim, spec.head_dim_v) > 256:
            reasons.append(f"head_dim {spec.head_dim} is above 256")
        if spec.num_heads % spec.num_kv_heads:
            reasons.append(f"{spec.num_heads} heads do not share {spec.num_kv_heads} KV heads")
        if spec.dtype not in ("float32", "float16", "bfloat16"):
            reasons.append(f"no kernel for dtype {spec.dtype}")
        if spec.kv_dtype not in ("auto", spec.dtype, *CODES):
            known = ", ".join((spec.dtype, *CODES))
            reasons.append(f"reads a cache of {known}, not {spec.kv_dtype}")
        if spec.kv_dtype == "fp8" and caps.fp8 == "range240":
            reasons.append("reads fp8 of e4m3fn and e4m3fnuz, not of a range of 240")
        return tuple(reasons)

    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Work lists; with a bucket their sizes, and so the launches, depend on it alone."""
        if bucket is not None:
            batch = pad(batch, bucket, self._spec.block_size)
        lengths = np.diff(batch.query_start)
        num_seqs = len(lengths)
        if bucket is None:
            singles = bool((lengths[: batch.num_decodes] == 1).all())
            num_decodes = batch.num_decodes if singles else 0
        else:
            num_decodes = num_seqs if bucket.num_tokens == bucket.num_seqs else 0
        arrays: dict[str, Array] = {"tables": batch.block_tables[self._spec.group]}
        num_items = num_tiles = 0
        if num_decodes:
            items = work.decode_items(
                batch.seq_lens[:num_decodes],
                self._spec.window,
                self._piece_slots,
                self._decode.tile,
                self._decode.min_piece,
            )
            if bucket is not None:
                items = _filled(items, num_decodes + self._piece_slots)
            arrays["items"], num_items = items, len(items)
        first_row = int(batch.query_start[num_decodes])
        whole: tuple[tuple[int, int], ...] = ()
        prompts = (0, 0, 0)
        if num_decodes < num_seqs:
            if bucket is None and self._prompts is not None:
                whole, prompts = self._left_to_vendor(batch, num_decodes, arrays)
            elif bucket is None and self._plain:
                whole = work.whole_prompts(
                    batch.query_start, batch.seq_lens, num_decodes, self._prefill.whole_from
                )
            tiles = work.prefill_tiles(
                batch.query_start, batch.seq_lens, num_decodes, self._tile_tokens, whole
            )
            if bucket is not None:
                most = bucket.num_tokens // self._tile_tokens + bucket.num_seqs
                tiles = _filled(tiles, most)
            arrays["tiles"], num_tiles = tiles, len(tiles)
            arrays["slots"] = batch.slots[self._spec.group][first_row:]
        idle = bucket is not None and num_tiles > 0
        lengths_whole = {end - begin for begin, end in whole}
        only = not prompts[1] and (
            len(whole) == num_seqs
            and len(lengths_whole) == 1
            and next(iter(lengths_whole)) % ROUND == 0
        )
        plan = StepPlan(num_decodes, num_items, num_tiles, first_row, idle, whole, prompts, only)
        return AttentionMeta(plan, arrays)

    def _left_to_vendor(
        self, batch: StepBatch, first_seq: int, arrays: dict[str, Array]
    ) -> tuple[tuple[tuple[int, int], ...], tuple[int, int, int]]:
        """Spans of the fresh prompts, and their run; adds where they start to `arrays`."""
        start = batch.query_start
        begin, end = work.fresh_run(start, batch.seq_lens, first_seq)
        if start[end] - start[begin] < _FEW_TOKENS:
            return (), (0, 0, 0)
        starts = start[begin : end + 1]
        arrays["starts"] = (starts - starts[0]).astype(np.int32)
        spans = tuple((int(a), int(b)) for a, b in zip(starts[:-1], starts[1:], strict=True))
        return spans, (int(starts[0]), int(starts[-1]), int(np.diff(starts).max()))

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """q[T,N,H], k[T,K,H], v[T,K,Hv] -> [T,N,Hv]; keys and values lie in [B,S,K,H].

        A prompt attended as a whole sees its own keys and values as they come, not their codes.
        """
        plan = cast(StepPlan, meta.static)
        handle = cast(PagedKV | QuantizedKV, kv)
        cache = view_cache(handle)
        spec = self._spec
        if plan.only_whole and k is not None and v is not None:
            k, v = _dense(k), _dense(v)
            self._write(plan, meta, k, v, cache)
            return attend_everything(q, k, v, len(plan.whole), spec.scale)
        make = torch.zeros if plan.idle_rows else torch.empty
        out = make((len(q), spec.num_heads, spec.head_dim_v), dtype=q.dtype, device=q.device)
        q = _dense(q)
        k, v = (None if x is None else _dense(x) for x in (k, v))
        if plan.num_items:
            self._run_decode(plan, meta, (q, k, v), cache, out, sinks)
        if "slots" in meta.arrays and k is not None and v is not None:
            self._write(plan, meta, k, v, cache)
        if plan.whole:
            self._run_whole(plan, meta, (q, k, v), handle, out)
        if plan.num_tiles:
            self._run_prefill(plan, meta, q, cache, out, sinks)
        return out

    def _run_decode(
        self,
        plan: StepPlan,
        meta: AttentionMeta,
        new: tuple[Tensor, Tensor | None, Tensor | None],
        cache: CacheView,
        out: Tensor,
        sinks: Tensor | None,
    ) -> None:
        spec, tuning = self._spec, self._decode
        warps, stages = tuning.warps, tuning.stages
        if plan.num_decodes <= tuning.lone:
            warps, stages = tuning.lone_warps, tuning.lone_stages
        q, k, v = new
        part, stat, arrivals = self._scratch.take(plan.num_items, plan.num_decodes)
        tables = meta.arrays["tables"]
        decode_items[(spec.num_kv_heads, plan.num_items)](
            q, q if k is None else k, q if v is None else v, cache.k, cache.v, cache.k_scales,
            cache.v_scales, cache.k_static, cache.v_static, out, part, stat, arrivals,
            meta.arrays["items"], tables, q if sinks is None else sinks,
            spec.scale * _LOG2_E, spec.softcap or 0.0, tables.stride(0), q.stride(0),
            0 if k is None else k.stride(0), 0 if v is None else v.stride(0),
            KV_HEADS=spec.num_kv_heads, GROUP=self._group, MEMBERS=_power_of_two(self._group),
            ROWS=max(16, _power_of_two(self._group)),
            HEAD=spec.head_dim, K_PAD=self._pads[0], V_HEAD=spec.head_dim_v, V_PAD=self._pads[1],
            PAGE=spec.block_size, TILE=tuning.tile, NEW=k is not None,
            CAP=spec.softcap is not None, SINKS=sinks is not None, UPCAST=self._upcast,
            num_warps=warps, num_stages=stages, **cache.constants, **cache.statics, PTX=self._ptx,
            **self._target.launch(plan.num_decodes),
        )  # fmt: skip

    def _run_prefill(
        self,
        plan: StepPlan,
        meta: AttentionMeta,
        q: Tensor,
        cache: CacheView,
        out: Tensor,
        sinks: Tensor | None,
    ) -> None:
        spec, tuning = self._spec, self._prefill
        tables = meta.arrays["tables"]
        prefill_tiles[(spec.num_kv_heads, plan.num_tiles)](
            q, cache.k, cache.v, cache.k_scales, cache.v_scales, out, meta.arrays["tiles"], tables,
            q if sinks is None else sinks,
            spec.scale * _LOG2_E, spec.softcap or 0.0, tables.stride(0), q.stride(0),
            KV_HEADS=spec.num_kv_heads, GROUP=self._group, ROWS=self._tile_rows,
            HEAD=spec.head_dim, K_PAD=self._pads[0], V_HEAD=spec.head_dim_v, V_PAD=self._pads[1],
            PAGE=spec.block_size, TILE=tuning.tile, WINDOW=spec.window or 0,
            CAP=spec.softcap is not None, SINKS=sinks is not None, UPCAST=self._upcast,
            num_warps=tuning.warps, num_stages=tuning.stages, **cache.constants, PTX=self._ptx,
        )  # fmt: skip

    def _run_whole(
        self,
        plan: StepPlan,
        meta: AttentionMeta,
        new: tuple[Tensor, Tensor | None, Tensor | None],
        kv: PagedKV | QuantizedKV,
        out: Tensor,
    ) -> None:
        first = plan.first_row
        q, k, v = new
        if k is None or v is None:  # another layer wrote them
            k, v = (x.to(q.dtype) for x in kv.read(meta.arrays["slots"]))
        else:
            k, v = k[first:], v[first:]
        begin, end, longest = plan.prompts
        if self._prompts is not None and end:
            rows = slice(begin - first, end - first)
            starts = meta.arrays["starts"]
            out[begin:end] = self._prompts(
                q[begin:end], k[rows], v[rows], starts, longest, self._spec.scale
            )
            return
        spans = [(begin - first, end - first) for begin, end in plan.whole]
        attend_whole(q[first:], k, v, spans, self._spec.scale, out[first:])

    def _write(
        self,
        plan: StepPlan,
        meta: AttentionMeta,
        k: Tensor,
        v: Tensor,
        cache: CacheView,
    ) -> None:
        spec = self._spec
        k, v = k[plan.first_row :], v[plan.first_row :]
        if cache.largest:
            write_codes[(len(k),)](
                k, v, cache.k, cache.v, cache.k_scales, cache.v_scales, cache.k_static,
                cache.v_static, meta.arrays["slots"], k.stride(0), v.stride(0),
                HEADS=spec.num_kv_heads, HEADS_PAD=_power_of_two(spec.num_kv_heads),
                HEAD=spec.head_dim, K_PAD=self._pads[0], V_HEAD=spec.head_dim_v,
                V_PAD=self._pads[1], PAGE=spec.block_size, **cache.constants, **cache.statics,
                num_warps=4,
            )  # fmt: skip
            return
        k_size, v_size = spec.num_kv_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim_v
        write_slots[(len(k),)](
            k, v, cache.k, cache.v, meta.arrays["slots"], k.stride(0), v.stride(0),
            K_SIZE=k_size, V_SIZE=v_size,
            K_BLOCK=_power_of_two(k_size), V_BLOCK=_power_of_two(v_size), num_warps=4,
        )  # fmt: skip


class _Scratch:
    """Buffers that outlive a launch; grown by eager runs, so that captured ones find them."""

    def __init__(self, spec: AttentionSpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self._items = self._seqs = 0
        self._outgrown: list[Tensor] = []  # captured launches may still point there
        self._part = self._stat = self._arrivals = torch.empty(0)

    def take(self, num_items: int, num_seqs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Parts f32[items,N,Hv], peaks and sums f32[items,N,2], zeroed counters i32[seqs,K]."""
        spec = self._spec
        if num_items > self._items:
            self._items = num_items
            self._outgrown += [self._part, self._stat]
            shape = num_items, spec.num_heads
            self._part = torch.empty((*shape, spec.head_dim_v), device=self._device)
            self._stat = torch.empty((*shape, 2), device=self._device)
        if num_seqs > self._seqs:
            self._seqs = num_seqs
            self._outgrown.append(self._arrivals)
            self._arrivals = torch.zeros(
                (num_seqs, spec.num_kv_heads), dtype=torch.int32, device=self._device
            )
        return self._part, self._stat, self._arrivals


def _filled(rows: Array, most: int) -> Array:
    """`rows` continued to `most` rows whose sequence is -1: no work."""
    out = np.full((most, rows.shape[1]), -1, np.int32)
    out[: len(rows)] = rows
    return out


def _dense(x: Tensor) -> Tensor:
    """x[T,N,H] with the heads of a token side by side, whatever the distance between tokens."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _power_of_two(size: int) -> int:
    return int(triton.next_power_of_2(size))
