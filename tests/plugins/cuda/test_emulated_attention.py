"""Decode attention over 8 bits in CUDA C++, run lane by lane on a processor."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from inferplane.execution.quantized_kv import QuantizedKV, QuantizedRows, row_bytes
from inferplane_cuda.attention.coded import SOURCES, CodedVariant
from inferplane_cuda.programs import Program
from inferplane_triton.attention.work import decode_items

PAGE, NUM_BLOCKS = 16, 120


def coded(kind: str, heads: int, dim: int, largest: float) -> QuantizedKV:
    scales = tuple(largest * (1 + 0.5 * head) for head in range(heads)) if largest else ()

    def rows() -> QuantizedRows:
        buffer = torch.zeros(NUM_BLOCKS * PAGE * heads * row_bytes(dim), dtype=torch.uint8)
        return QuantizedRows.over(buffer, kind, (PAGE, heads, dim), scales)

    return QuantizedKV(rows(), rows())


def expected(q: Tensor, kv: QuantizedKV, tables: Tensor, contexts: Sequence[int]) -> Tensor:
    """f64[S,N,H], the new tokens being in the cache."""
    out = []
    for row, context in enumerate(contexts):
        place = torch.arange(context + 1)
        slots = tables[row, place // PAGE] * PAGE + place % PAGE
        keys, values = (x.double() for x in kv.read(slots))
        group = q.shape[1] // keys.shape[1]
        queries = q[row].double().unflatten(0, (-1, group))
        scores = torch.einsum("kgh,lkh->kgl", queries, keys) * q.shape[2] ** -0.5
        out.append(torch.einsum("kgl,lkh->kgh", scores.softmax(-1), values).flatten(0, 1))
    return torch.stack(out)


@pytest.mark.parametrize(
    ("kind", "dtype", "heads", "dim", "largest", "eager"),
    [
        ("fp8", torch.bfloat16, (8, 2), 128, 0.0, False),
        ("int8", torch.bfloat16, (6, 2), 64, 0.0, True),
        ("fp8", torch.float16, (2, 2), 64, 1.5, True),
        ("int8", torch.float16, (16, 2), 128, 1.5, False),
    ],
)
def test_every_lane_finds_what_float64_gives(
    emulated: Callable[..., Program],
    kind: str,
    dtype: torch.dtype,
    heads: tuple[int, int],
    dim: int,
    largest: float,
    eager: bool,
) -> None:
    contexts, (num_heads, kv_heads) = [0, 15, 16, 130, 1100], heads
    draw = torch.Generator().manual_seed(num_heads)

    def random(tokens: int, count: int) -> Tensor:
        sizes = torch.exp2(torch.randint(-3, 2, (tokens, count, 1), generator=draw))
        return (torch.randn(tokens, count, dim, generator=draw) * sizes).to(dtype)

    blocks = torch.randperm(NUM_BLOCKS - 1, generator=draw).int() + 1
    tables = torch.zeros((len(contexts), 72), dtype=torch.int32)
    used = 0
    for row, context in enumerate(contexts):
        count = context // PAGE + 1
        tables[row, :count] = blocks[used : used + count]
        used += count
    kv, after = coded(kind, kv_heads, dim, largest), coded(kind, kv_heads, dim, largest)
    q, k, v = (random(len(contexts), n) for n in (num_heads, kv_heads, kv_heads))
    for row, context in enumerate(contexts):
        place = torch.arange(context)
        slots = tables[row, place // PAGE] * PAGE + place % PAGE
        cached = random(context, kv_heads), random(context, kv_heads)
        kv.write(slots, *cached)
        after.write(slots, *cached)
        newest = tables[row, context // PAGE : context // PAGE + 1] * PAGE + context % PAGE
        after.write(newest, k[row : row + 1], v[row : row + 1])
    lens = np.array(contexts, np.int32) + 1
    items = torch.from_numpy(decode_items(lens, None, 2, 64, 64))
    items = torch.cat((items, torch.full((1, 8), -1, dtype=torch.int32)))  # as a bucket fills them
    assert int(items[:, 5].max()) > 1
    wanted = expected(q, after, tables, contexts)
    parts = torch.empty(len(items), num_heads, dim)
    stats = torch.empty(len(items), num_heads, 2)
    arrivals = torch.zeros(len(contexts), kv_heads, dtype=torch.int32)
    for is_new in (True, False):  # the second reads what the first one kept
        keys, values = kv.keys, kv.values
        fixed = keys.scales if keys.static is None else keys.static
        variant = CodedVariant(
            kv_heads, num_heads // kv_heads, dim, PAGE, 448 if kind == "fp8" else 127,
            int(is_new), int(largest > 0), int(largest > 0), int(dtype == torch.float16),
        )  # fmt: skip
        out = torch.zeros(len(contexts), num_heads, dim, dtype=dtype)
        tensors = (
            q, k, v, keys.codes, values.codes, keys.scales, values.scales, fixed, fixed, out,
            parts, stats, arrivals, items, tables,
        )  # fmt: skip
        (scale,) = struct.unpack("i", struct.pack("f", dim**-0.5 * 1.4426950408889634))
        numbers = (
            scale, tables.stride(0), q.stride(0), k.stride(0), v.stride(0), keys.codes.stride(0),
            values.codes.stride(0),
        )  # fmt: skip
        package = "inferplane_cuda.attention"
        program = emulated(package, SOURCES, asdict(variant), eager=eager)
        grid = kv_heads, len(items)
        function, threads = program.function("attend"), 32 * variant.WARPS
        program.launch(function, grid, threads, (*tensors, *numbers), variant.shared_bytes)
        assert out.isfinite().all()
        assert (out.double() - wanted).norm() / wanted.norm() < 3e-3
        assert not arrivals.any()
    for got, want in ((kv.keys, after.keys), (kv.values, after.values)):
        assert torch.equal(got.codes[1:], want.codes[1:])
        assert torch.equal(got.scales[1:], want.scales[1:])
