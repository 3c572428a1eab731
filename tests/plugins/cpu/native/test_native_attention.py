"""The C++ attention and rotary instructions against plain torch, over random paged caches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.quantized_kv import QuantizedRows
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.interfaces import LayerKV
from inferplane_cpu.native.coded import CodedPanelKV
from inferplane_cpu.native.library import Op
from inferplane_cpu.native.machine import Machine, ProgramBuilder, StepArrays
from inferplane_cpu.native.panels import PanelKV
from inferplane_cpu.native.store import LAYOUT, PanelKVStore


@dataclass
class Case:
    lengths: tuple[tuple[int, int], ...]  # (query, context) of each sequence
    heads: int = 6
    kv_heads: int = 2
    dim: int = 64
    window: int = 0
    softcap: float = 0.0
    dtype: torch.dtype = torch.float32
    block: int = 32
    codes: str = ""  # kv_dtype of a cache in 8 bits
    largest: tuple[float, ...] = ()

    def rounded(self, kv: Tensor) -> Tensor:
        """[2,c,K,H] as the core's own cache of this kind keeps them."""
        if not self.codes:
            return kv.to(self.dtype)
        made = []
        for numbers in kv:
            codes = torch.zeros(1, *numbers.shape, dtype=torch.int8)
            scales = torch.zeros(codes.shape[:3], dtype=torch.bfloat16)
            rows = QuantizedRows.beside(codes, scales, self.codes, self.largest)
            rows.write(torch.arange(len(numbers)), numbers)
            made.append(rows.read(torch.arange(len(numbers))))
        return torch.stack(made)

    def cache(self, blocks: int) -> PanelKV | CodedPanelKV:
        """The zeroed cache of one layer."""
        name = self.codes or str(self.dtype).removeprefix("torch.")
        layer = LayerKV("layer", self.kv_heads, self.dim, self.dim, name, LAYOUT)
        layer = replace(layer, k_largest=self.largest, v_largest=self.largest)
        store = PanelKVStore(HostRuntime(), TorchAllocator())
        k, v = (
            torch.zeros(blocks * size // 2, dtype=torch.uint8)
            for size in [store.bytes_per_block(layer, self.block)] * 2
        )
        kv = store.handle(layer, k, v, self.block)
        assert isinstance(kv, (PanelKV, CodedPanelKV))
        return kv


def ints(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32)


def reference(q: Tensor, k: Tensor, v: Tensor, case: Case, position: int) -> Tensor:
    """q[n,N,H] at positions position.. over k, v[c,K,H] -> [n,N,H], in float64."""
    group = case.heads // case.kv_heads
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("nhd,chd->hnc", q.double(), k) * case.dim**-0.5
    if case.softcap:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    rows = position + torch.arange(len(q))[:, None]
    columns = torch.arange(len(k))[None]
    seen = columns <= rows
    if case.window:
        seen &= columns > rows - case.window
    return torch.einsum("hnc,chd->nhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def run(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """(native, reference) outputs [T,N*H] of one step over context written before."""
    make = torch.Generator().manual_seed(0)
    n, k, h = case.heads, case.kv_heads, case.dim
    blocks = sum(-(-context // case.block) for _, context in case.lengths) + 1
    kv_cache = case.cache(blocks)
    cache = kv_cache.structure()
    total = sum(query for query, _ in case.lengths)
    builder = ProgramBuilder(machine, total, len(case.lengths))
    qkv, out = builder.buffer((n + 2 * k) * h), builder.buffer(n * h)
    layer = builder.cache(cache)
    shared = {"heads": n, "kv_heads": k, "dim": h, "dim_v": h, "layer": layer, "src": qkv}
    builder.emit(Op.ROTARY, rotary=0, **shared)
    builder.emit(
        Op.ATTEND, dst=out, scale=h**-0.5, window=case.window, softcap=case.softcap, **shared
    )
    program = builder.build(len(case.lengths), max(context for _, context in case.lengths))
    tables = torch.zeros(len(case.lengths), blocks, dtype=torch.int32)
    start, expected, kept = [0], [], []
    positions: list[int] = []
    slots: list[int] = []
    next_block = 1
    for s, (query, context) in enumerate(case.lengths):
        count = -(-context // case.block)
        # a permuted table: neighbours in the sequence are not neighbours in memory
        tables[s, :count] = torch.arange(next_block + count - 1, next_block - 1, -1)
        next_block += count
        q = torch.randn(query, n, h, generator=make)
        kv = torch.randn(2, context, k, h, generator=make)
        row = slice(start[-1], start[-1] + query)
        program.buffers[qkv][row] = torch.cat(
            (q, kv[0, context - query :], kv[1, context - query :]), 1
        ).flatten(1)
        start.append(start[-1] + query)
        where = [
            int(tables[s, p // case.block]) * case.block + p % case.block for p in range(context)
        ]
        positions += range(context - query, context)
        slots += where[context - query :]
        earlier = ints(where[: context - query])
        past = kv[:, : context - query].contiguous()
        machine.library.ip_write_tokens(
            cache, earlier.data_ptr(), len(earlier), past[0].data_ptr(), past[1].data_ptr()
        )
        stored = case.rounded(kv)
        kept.append((where, stored))
        expected.append(reference(q, stored[0], stored[1], case, context - query))
    program.run(
        StepArrays(
            torch.zeros(total, dtype=torch.int32),
            ints(positions),
            ints(start),
            ints([context for _, context in case.lengths]),
            ints([stop - 1 for stop in start[1:]]),
            (tables,),
            (ints(slots),),
        )
    )
    for where, stored in kept:  # the kernels and the core read each other's caches
        for native, theirs in zip(kv_cache.read(ints(where)), stored, strict=True):
            torch.testing.assert_close(native.float(), theirs.float(), atol=0, rtol=0)
    return program.buffers[out][:total], torch.cat(expected).flatten(1).float()


CASES = {
    "decode": Case(((1, 1), (1, 31), (1, 33), (1, 200))),
    "prefill": Case(((70, 70), (5, 5))),
    "chunk": Case(((40, 100), (64, 600))),
    "mixed": Case(((1, 50), (1, 700), (33, 33))),
    "long decode is merged from chunks": Case(((1, 1500), (1, 512), (1, 513))),
    "window": Case(((1, 300), (50, 120)), window=40),
    "window over chunks": Case(((1, 1400), (20, 900)), window=600),
    "softcap": Case(((1, 90), (9, 30)), softcap=20.0),
    "small blocks": Case(((1, 50), (1, 700), (33, 80)), block=16),
    "odd small blocks with a window": Case(((1, 50), (40, 140)), window=33, block=16),
    "large blocks": Case(((1, 50), (1, 700), (33, 80)), block=128),
    "one head a group": Case(((1, 40), (20, 20)), heads=4, kv_heads=4, dim=32),
    "wide groups": Case(((1, 40), (7, 50)), heads=16, kv_heads=1, dim=128),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_in_float32_equals_the_definition(machine: Machine, name: str) -> None:
    native, expected = run(machine, CASES[name])
    torch.testing.assert_close(native, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_attention_over_a_bf16_cache_stays_within_its_rounding(machine: Machine, name: str) -> None:
    native, expected = run(machine, replace(CASES[name], dtype=torch.bfloat16))
    torch.testing.assert_close(native, expected, atol=2e-2, rtol=2e-2)


CODED = CASES | {
    "more chunks than are kept widened": Case(((3, 4700), (1, 40))),
    "calibrated heads": Case(((1, 50), (9, 600)), largest=(2.5, 3.0)),
}
del CODED["odd small blocks with a window"], CODED["large blocks"]  # as small blocks and a window


@pytest.mark.parametrize("codes", ["int8", "fp8"])
@pytest.mark.parametrize("name", CODED)
def test_attention_over_codes_equals_that_over_what_they_stand_for(
    machine: Machine, name: str, codes: str
) -> None:
    native, expected = run(machine, replace(CODED[name], codes=codes))
    torch.testing.assert_close(native, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("codes", ["int8", "fp8"])
def test_a_row_over_codes_does_not_depend_on_its_neighbours(machine: Machine, codes: str) -> None:
    alone, _ = run(machine, Case(((40, 700),), codes=codes))
    company, _ = run(machine, Case(((40, 700), (1, 33), (70, 1400)), codes=codes))
    assert torch.equal(alone, company[:40])


TILED = {
    "whole tiles of prompt": Case(((32, 32), (96, 160)), dim=64),
    "heads of 80, which are no whole tiles": Case(((40, 70),), dim=80),
    "heads of 160": Case(((33, 70),), heads=2, kv_heads=1, dim=160),
}


@pytest.mark.parametrize("name", CASES | TILED)
def test_attention_by_tiles_stays_within_the_same_rounding(tiled: Machine, name: str) -> None:
    case = replace((CASES | TILED)[name], dtype=torch.bfloat16)
    native, expected = run(tiled, case)
    torch.testing.assert_close(native, expected, atol=2e-2, rtol=2e-2)


def test_prompts_by_tiles_are_close_to_prompts_by_vectors(tiled: Machine, untiled: Machine) -> None:
    case = Case(((70, 600), (33, 33), (1, 40)), dtype=torch.bfloat16)
    by_tiles, by_vectors = run(tiled, case)[0], run(untiled, case)[0]
    assert torch.equal(by_tiles[-1], by_vectors[-1])  # decoding waits for memory
    assert not torch.equal(by_tiles, by_vectors)
    assert (by_tiles - by_vectors).norm() / by_vectors.norm() < 3e-3


def test_a_row_by_tiles_does_not_depend_on_its_neighbours(tiled: Machine) -> None:
    alone, _ = run(tiled, Case(((40, 700),), dtype=torch.bfloat16))
    company, _ = run(tiled, Case(((40, 700), (1, 33), (70, 1400)), dtype=torch.bfloat16))
    assert torch.equal(alone, company[:40])


def test_a_row_does_not_depend_on_its_neighbours(machine: Machine) -> None:
    alone, _ = run(machine, Case(((1, 700),)))
    company, _ = run(machine, Case(((1, 700), (1, 33), (70, 1400))))
    assert torch.equal(alone[0], company[0])


@pytest.mark.parametrize("codes", ["int8", "fp8"])
def test_tokens_are_coded_as_the_core_codes_them(machine: Machine, codes: str) -> None:
    case = Case(((1, 32),), codes=codes)
    make = torch.Generator().manual_seed(3)
    shape = (2, 32, case.kv_heads, case.dim)
    # magnitudes over all exponents of a code, and some tokens of nothing
    kv = torch.randn(shape, generator=make) * 2.0 ** torch.randint(-20, 3, shape, generator=make)
    kv[:, 7] = 0.0
    cache, slots = case.cache(2), ints(range(16, 48))
    machine.library.ip_write_tokens(
        cache.structure(), slots.data_ptr(), 32, kv[0].data_ptr(), kv[1].data_ptr()
    )
    native = cache.read(slots)
    cache.write(slots, kv[0], kv[1])
    for made, torchs in zip(native, cache.read(slots), strict=True):
        torch.testing.assert_close(made, torchs, atol=0, rtol=0)
