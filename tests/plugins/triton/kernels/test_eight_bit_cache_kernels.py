"""Attention over keys and values in 8 bits: written as the core writes, read against float64.

It needs no fixtures of the suite, so it runs alone on a GPU as well:
pytest -c /dev/null --rootdir . --noconftest tests/plugins/triton/kernels/THIS_FILE
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from inferplane.execution.quantized_kv import QuantizedKV, QuantizedRows, kv_codes, row_bytes
from inferplane.interfaces import (
    AttentionMeta,
    AttentionSpec,
    Bucket,
    Capabilities,
    PromptAttention,
    StepBatch,
)
from inferplane_triton.attention.paged import PagedAttention
from inferplane_triton.device.codes import as_codes, widen_codes

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
PAGE, NUM_BLOCKS = 16, 80
LIMITS = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}
FLAVOURS = [("int8", "e4m3fn"), ("fp8", "e4m3fn"), ("fp8", "e4m3fnuz")]
KINDS = pytest.mark.parametrize(("kind", "fp8"), FLAVOURS)


@dataclass
class Device:
    """All a backend asks of its runtime."""

    torch_device: str = DEVICE

    def prompt_attention(self, head_dim: int, dtype: str) -> PromptAttention | None:
        return None


@triton.jit
def convert(x, codes, wide, KIND: tl.constexpr, LARGEST: tl.constexpr, SIZE: tl.constexpr,
            PTX: tl.constexpr):  # fmt: skip
    at = tl.arange(0, SIZE)
    made = as_codes(tl.load(x + at), LARGEST)
    tl.store(codes + at, made)
    tl.store(wide + at, widen_codes(made, KIND, LARGEST, PTX).to(tl.float32))


@pytest.mark.parametrize("ptx", [False, True])
@pytest.mark.parametrize("to", ["float32", "float16", "bfloat16"])
@KINDS
def test_codes_are_torchs_own_and_are_widened_exactly(
    kind: str, fp8: str, to: str, ptx: bool
) -> None:
    if ptx and (to != "bfloat16" or torch.version.hip):
        pytest.skip("PTX is written for bfloat16 alone, and for its own devices")
    if to == "bfloat16" and DEVICE == "cpu":
        pytest.skip("the interpreter has no bfloat16 arithmetic; there it is widened to float32")
    code_type, largest = kv_codes(kind, fp8)
    everything = torch.arange(256, dtype=torch.uint8).view(code_type).float()
    everything = everything[everything.isfinite() & (everything.abs() <= largest)]
    between = (everything.sort().values[1:] + everything.sort().values[:-1]) / 2  # ties
    random = torch.randn(4096) * torch.exp2(torch.randint(-12, 9, (4096,)))
    x = torch.cat((everything, between, random.clamp(-largest, largest)))
    x = torch.nn.functional.pad(x, (0, 8192 - len(x)))
    want = (x.round() if code_type == torch.int8 else x).to(code_type)
    codes = torch.empty(len(x), dtype=torch.int8, device=DEVICE)
    wide = torch.empty(len(x), device=DEVICE)
    convert[(1,)](
        x.to(DEVICE), codes, wide, KIND=getattr(tl, to), LARGEST=int(largest), SIZE=len(x), PTX=ptx
    )
    assert torch.equal(codes.cpu().view(code_type).float(), want.float())
    assert torch.equal(wide.cpu(), want.float())


def zeroed(spec: AttentionSpec, fp8: str, largest: float) -> QuantizedKV:
    """An empty cache; `largest` > 0: with static scales, another one for each head."""

    def rows(size: int) -> QuantizedRows:
        heads = spec.num_kv_heads
        total = NUM_BLOCKS * PAGE * heads * row_bytes(size)
        scales = tuple(largest * (1 + 0.25 * head) for head in range(heads)) if largest else ()
        buffer = torch.zeros(total, dtype=torch.uint8, device=DEVICE)
        return QuantizedRows.over(buffer, spec.kv_dtype, (PAGE, heads, size), scales, fp8)

    return QuantizedKV(rows(spec.head_dim), rows(spec.head_dim_v))


@dataclass
class Step:
    """A step and its tensors; `kv` as it is before, `after` as it must be afterwards."""

    batch: StepBatch
    q: Tensor
    k: Tensor
    v: Tensor
    kv: QuantizedKV
    after: QuantizedKV


def make_step(
    spec: AttentionSpec, queries: Sequence[int], contexts: Sequence[int], fp8: str, largest: float
) -> Step:
    """`contexts` cached tokens, then `queries` new ones, in blocks in random order."""
    draw = torch.Generator().manual_seed(len(queries) + sum(contexts))

    def random(tokens: int, heads: int, size: int) -> Tensor:
        sizes = torch.exp2(torch.randint(-3, 2, (tokens, heads, 1), generator=draw))
        drawn = torch.randn(tokens, heads, size, generator=draw) * sizes
        return drawn.to(DEVICE, getattr(torch, spec.dtype))

    lens = np.add(queries, contexts)
    blocks = np.random.default_rng(0).permutation(NUM_BLOCKS - 1) + 1
    tables = np.zeros((len(lens), int(lens.max()) // PAGE + 2), np.int32)
    used = 0
    for row, length in enumerate(lens):
        count = -(-int(length) // PAGE)
        tables[row, :count] = blocks[used : used + count]
        used += count

    def slots_of(row: int, places: np.ndarray) -> np.ndarray:
        return tables[row, places // PAGE] * PAGE + places % PAGE

    rows = range(len(lens))
    places = [np.arange(contexts[row], lens[row]) for row in rows]
    decodes = next((row for row in rows if queries[row] > 1), len(lens))
    total = sum(queries)
    batch = StepBatch(
        step=0,
        num_decodes=decodes,
        token_ids=np.zeros(total, np.int32),
        token_source=np.full(total, -1, np.int32),
        positions=np.concatenate(places).astype(np.int32),
        query_start=np.concatenate(([0], np.cumsum(queries))).astype(np.int32),
        seq_lens=lens.astype(np.int32),
        lanes=np.arange(len(lens), dtype=np.int32),
        block_tables=(tables,),
        slots=(np.concatenate([slots_of(r, places[r]) for r in rows]).astype(np.int32),),
        sampled=np.arange(len(lens), dtype=np.int32),
    )
    heads, sizes = spec.num_kv_heads, (spec.head_dim, spec.head_dim_v)
    kv, after = zeroed(spec, fp8, largest), zeroed(spec, fp8, largest)
    new = [random(total, heads, size) for size in sizes]
    for row in rows:
        slots = torch.from_numpy(slots_of(row, np.arange(contexts[row]))).to(DEVICE)
        cached = [random(contexts[row], heads, size) for size in sizes]
        kv.write(slots, *cached)
        after.write(slots, *cached)
    after.write(torch.from_numpy(batch.slots[0]).to(DEVICE), *new)
    return Step(batch, random(total, spec.num_heads, spec.head_dim), *new, kv, after)


def expected(spec: AttentionSpec, step: Step) -> Tensor:
    """f64[T,N,Hv] over what the cache holds afterwards, sequence by sequence."""
    group = spec.num_heads // spec.num_kv_heads
    out = []
    for row in range(len(step.batch.seq_lens)):
        part = slice(*step.batch.query_start[row : row + 2])
        place = np.arange(step.batch.seq_lens[row])
        slots = step.batch.block_tables[0][row, place // PAGE] * PAGE + place % PAGE
        read = step.after.read(torch.from_numpy(slots).to(DEVICE))
        keys, values = (x.double() for x in read)
        at = torch.from_numpy(step.batch.positions[part]).to(DEVICE)[:, None]
        seen = torch.arange(len(keys), device=DEVICE) <= at
        if spec.window is not None:
            seen &= torch.arange(len(keys), device=DEVICE) > at - spec.window
        q = step.q[part].double().unflatten(1, (-1, group))
        scores = torch.einsum("tkgh,lkh->tkgl", q, keys) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        weights = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
        out.append(torch.einsum("tkgl,lkh->tkgh", weights, values).flatten(1, 2))
    return torch.cat(out)


def spec_of(kind: str, dtype: str = "float32", heads: tuple[int, int] = (4, 2), dim: int = 32,
            dim_v: int = 0, **more: object) -> AttentionSpec:  # fmt: skip
    return AttentionSpec(*heads, dim, dim_v or dim, dtype, kind, dim**-0.5, PAGE, **more)  # type: ignore[arg-type]


def run(
    spec: AttentionSpec,
    step: Step,
    bucket: Bucket | None = None,
    shared: bool = False,
    whole_from: int = 1 << 30,
) -> Tensor:
    backend = PagedAttention(spec, Device())  # type: ignore[arg-type]
    backend._prefill = replace(backend._prefill, whole_from=whole_from)
    meta = backend.build(step.batch, bucket)
    arrays = {name: torch.from_numpy(array).to(DEVICE) for name, array in meta.arrays.items()}
    extra = (bucket.num_tokens if bucket else len(step.q)) - len(step.q)
    q, k, v = (torch.cat((x, x.new_zeros(extra, *x.shape[1:]))) for x in (step.q, step.k, step.v))
    new = (None, None) if shared else (k, v)
    return backend.forward(q, *new, step.kv, AttentionMeta(meta.static, arrays))[: len(step.q)]


def check(
    spec: AttentionSpec,
    queries: Sequence[int],
    contexts: Sequence[int],
    fp8: str = "e4m3fn",
    *,
    bucket: Bucket | None = None,
    largest: float = 0.0,
) -> None:
    assert PagedAttention.supports(spec, Capabilities(fp8=fp8)) == ()  # type: ignore[arg-type]
    step = make_step(spec, queries, contexts, fp8, largest)
    wanted = expected(spec, step)
    for shared in (False, True):  # the second run reads what the first one wrote
        out = run(spec, step, bucket, shared)
        assert out.isfinite().all()
        assert (out.double() - wanted).norm() / wanted.norm() < LIMITS[spec.dtype]
    for got, want in ((step.kv.keys, step.after.keys), (step.kv.values, step.after.values)):
        assert torch.equal(got.codes[1:], want.codes[1:])
        assert torch.equal(got.scales[1:], want.scales[1:])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@KINDS
def test_decodes_and_chunks_read_and_write_codes(kind: str, fp8: str, dtype: str) -> None:
    check(spec_of(kind, dtype), [1, 1, 7, 20], [5, 90, 20, 3], fp8)


@KINDS
def test_scales_of_a_checkpoint_clip_what_lies_beyond(kind: str, fp8: str) -> None:
    check(spec_of(kind), [1, 9], [40, 3], fp8, largest=1.5)


@pytest.mark.parametrize(
    ("heads", "dim", "dim_v"), [((9, 3), 64, 64), ((14, 2), 80, 80), ((8, 1), 32, 48)]
)
def test_heads_of_any_number_and_size(heads: tuple[int, int], dim: int, dim_v: int) -> None:
    check(spec_of("fp8", heads=heads, dim=dim, dim_v=dim_v), [1, 5], [60, 11])


def test_a_window_and_a_soft_cap() -> None:
    check(spec_of("int8", window=7, softcap=3.0), [1, 12], [90, 10])


def test_padding_writes_into_no_block_of_others() -> None:
    check(spec_of("fp8"), [1, 1], [90, 200], bucket=Bucket("decode", 4, 4, 1))
    check(spec_of("int8"), [1, 9, 20], [90, 20, 3], bucket=Bucket("mixed", 64, 8))


def test_a_prompt_attended_as_a_whole_sees_its_keys_as_they_come() -> None:
    spec = spec_of("fp8", heads=(2, 1), dim=16)
    step = make_step(spec, [40], [0], "e4m3fn", 0.0)
    out = run(spec, step, whole_from=40)
    attend = torch.nn.functional.scaled_dot_product_attention
    parts = (x.double().transpose(0, 1)[None] for x in (step.q, step.k, step.v))
    wanted = attend(*parts, is_causal=True, scale=spec.scale, enable_gqa=True)[0].transpose(0, 1)
    assert (out.double() - wanted).norm() / wanted.norm() < LIMITS["float32"]
    assert torch.equal(step.kv.keys.codes[1:], step.after.keys.codes[1:])


def test_flavours_that_no_kernel_reads_are_refused_by_name() -> None:
    reasons = PagedAttention.supports(spec_of("fp8"), Capabilities(fp8="range240"))
    assert reasons == ("reads fp8 of e4m3fn and e4m3fnuz, not of a range of 240",)
    assert "int4" in PagedAttention.supports(spec_of("int4"), Capabilities())[0]
