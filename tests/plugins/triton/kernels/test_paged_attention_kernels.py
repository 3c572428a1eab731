"""Paged attention against float64: decodes, prompts, chunks, windows, caps, sinks, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from inferplane.execution.torch_kv_store import PagedKV
from inferplane.interfaces import (
    AttentionMeta,
    AttentionSpec,
    Bucket,
    Capabilities,
    PromptAttention,
    StepBatch,
)
from inferplane_triton.attention.paged import PagedAttention
from inferplane_triton.gpu.paging import list_blocks, write_tokens

BLOCK, NUM_BLOCKS = 16, 140
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@dataclass
class Device:
    """All a backend asks of its runtime."""

    torch_device: str
    prompts: PromptAttention | None = None

    def prompt_attention(self, head_dim: int, dtype: str) -> PromptAttention | None:
        return self.prompts


@dataclass
class Step:
    """A step, its tensors, and the cache as it must be afterwards."""

    batch: StepBatch
    q: Tensor
    k: Tensor
    v: Tensor
    kv: PagedKV
    after: PagedKV


def make_step(
    spec: AttentionSpec, queries: Sequence[int], contexts: Sequence[int], device: str
) -> Step:
    """`contexts` cached tokens, then `queries` new ones, in blocks in random order."""
    dtype = getattr(torch, spec.dtype)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    heads = spec.num_kv_heads
    kv = PagedKV(
        random(NUM_BLOCKS, BLOCK, heads, spec.head_dim),
        random(NUM_BLOCKS, BLOCK, heads, spec.head_dim_v),
        "nhd",
        BLOCK,
    )
    lens = np.add(queries, contexts)
    blocks = np.random.default_rng(0).permutation(NUM_BLOCKS - 1) + 1
    tables = np.zeros((len(lens), int(lens.max()) // BLOCK + 2), np.int32)
    places = [np.arange(n, n + q) for n, q in zip(contexts, queries, strict=True)]
    used = 0
    for row, length in enumerate(lens):
        count = -(-int(length) // BLOCK)
        tables[row, :count] = blocks[used : used + count]
        used += count
    slots = [tables[i, p // BLOCK] * BLOCK + p % BLOCK for i, p in enumerate(places)]
    decodes = 0
    while decodes < len(lens) and queries[decodes] == 1 and contexts[decodes]:
        decodes += 1
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
        slots=(np.concatenate(slots).astype(np.int32),),
        sampled=np.arange(len(lens), dtype=np.int32),
    )
    k, v = random(total, heads, spec.head_dim), random(total, heads, spec.head_dim_v)
    after = PagedKV(kv.k.clone(), kv.v.clone(), "nhd", BLOCK)
    after.write(torch.from_numpy(batch.slots[0]).long().to(device), k, v)
    return Step(batch, random(total, spec.num_heads, spec.head_dim), k, v, kv, after)


def expected(spec: AttentionSpec, step: Step, sinks: Tensor | None) -> Tensor:
    """f64[T,N,Hv], sequence by sequence."""
    group = spec.num_heads // spec.num_kv_heads
    out = []
    for row in range(len(step.batch.seq_lens)):
        part = slice(*step.batch.query_start[row : row + 2])
        place = np.arange(step.batch.seq_lens[row])
        slots = step.batch.block_tables[0][row, place // BLOCK] * BLOCK + place % BLOCK
        keys, values = (
            x.double() for x in step.after.read(torch.from_numpy(slots).to(step.q.device))
        )
        at = torch.from_numpy(step.batch.positions[part]).to(step.q.device)[:, None]
        place = torch.arange(len(keys), device=step.q.device)
        seen = place <= at
        if spec.window is not None:
            seen &= place > at - spec.window
        q = step.q[part].double().unflatten(1, (-1, group))
        scores = torch.einsum("tkgh,lkh->tkgl", q, keys) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        if sinks is not None:
            sink = sinks.double().view(1, -1, group, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat((scores, sink), -1)
        weights = scores.softmax(-1)[..., : len(keys)]
        out.append(torch.einsum("tkgl,lkh->tkgh", weights, values).flatten(1, 2))
    return torch.cat(out)


def check(
    spec: AttentionSpec,
    queries: Sequence[int],
    contexts: Sequence[int],
    device: str,
    bucket: Bucket | None = None,
    prompts: PromptAttention | None = None,
) -> None:
    assert PagedAttention.supports(spec, Capabilities()) == ()
    step = make_step(spec, queries, contexts, device)
    sinks = torch.randn(spec.num_heads, device=device) if spec.sinks else None
    wanted = expected(spec, step, sinks)
    backend = PagedAttention(spec, Device(device, prompts))  # type: ignore[arg-type]
    meta = backend.build(step.batch, bucket)
    arrays = {name: torch.from_numpy(array).to(device) for name, array in meta.arrays.items()}
    extra = (bucket.num_tokens if bucket else len(step.q)) - len(step.q)
    padded = [torch.cat((x, x.new_zeros(extra, *x.shape[1:]))) for x in (step.q, step.k, step.v)]
    for _ in range(2):  # the second run finds the counters as the first left them
        out = backend.forward(*padded, step.kv, AttentionMeta(meta.static, arrays), sinks)
        assert out.isfinite().all()
        error = (out[: len(step.q)].double() - wanted).norm() / wanted.norm()
        assert error < LIMITS[step.q.dtype]
    torch.testing.assert_close(step.kv.k[1:], step.after.k[1:], atol=0, rtol=0)
    torch.testing.assert_close(step.kv.v[1:], step.after.v[1:], atol=0, rtol=0)


def spec_of(heads: tuple[int, int], dim: int, dtype: str = "float32", **more: object) -> object:
    return AttentionSpec(
        *heads, dim, more.pop("dim_v", dim), dtype, "auto", dim**-0.5, BLOCK, **more
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heads", "dtype"),
    [
        ((4, 2), "float32"),
        ((4, 2), "float16"),
        ((4, 2), "bfloat16"),
        ((9, 3), "float32"),
        ((14, 2), "bfloat16"),
        ((8, 1), "float16"),
    ],
)
def test_decodes_prompts_and_chunks_in_one_step(
    heads: tuple[int, int], dtype: str, device: str
) -> None:
    check(spec_of(heads, 32, dtype), [1, 1, 7, 30], [5, 90, 20, 0], device)


@pytest.mark.parametrize("contexts", [[1], [15, 16, 17], [200, 3, 77], [500]])
def test_decodes_of_any_length_are_cut_and_combined(contexts: list[int], device: str) -> None:
    check(spec_of((4, 2), 64), [1] * len(contexts), contexts, device)


def test_a_layer_without_keys_of_its_own_reads_what_another_wrote(device: str) -> None:
    spec = spec_of((4, 2), 32)
    step = make_step(spec, [1, 5, 40], [20, 9, 0], device)
    backend = PagedAttention(spec, Device(device))  # type: ignore[arg-type]
    built = backend.build(step.batch, None)
    arrays = {name: torch.from_numpy(array).to(device) for name, array in built.arrays.items()}
    meta = AttentionMeta(built.static, arrays)
    first = backend.forward(step.q, step.k, step.v, step.kv, meta)
    second = backend.forward(step.q, None, None, step.kv, meta)
    torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-4)


def vendors(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
    """What a vendor's kernel over whole prompts computes."""
    assert longest == starts.diff().max()
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    out = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        parts = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        attend = torch.nn.functional.scaled_dot_product_attention
        out.append(attend(*parts, is_causal=True, scale=scale)[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize(
    ("queries", "contexts"),
    [([1, 20, 70, 90], [9, 33, 0, 0]), ([200], [0]), ([70, 90, 5], [0, 0, 9]), ([3, 9], [0, 0])],
)
def test_fresh_prompts_go_to_the_vendors_kernel_beside_other_work(
    queries: list[int], contexts: list[int], device: str
) -> None:
    check(spec_of((4, 2), 32), queries, contexts, device, prompts=vendors)


@pytest.mark.parametrize("queries", [[1024, 1024], [1024], [1, 1024, 40]])
def test_long_prompts_alone_together_and_beside_others(queries: list[int], device: str) -> None:
    check(spec_of((2, 1), 16), queries, [9 if n == 1 else 0 for n in queries], device)


@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_window_hides_what_lies_before_it(window: int, device: str) -> None:
    check(spec_of((4, 2), 32, window=window), [1, 40, 9], [90, 0, 100], device)


def test_soft_cap_and_sinks(device: str) -> None:
    check(spec_of((4, 2), 32, softcap=3.0, sinks=True), [1, 33], [90, 10], device)


@pytest.mark.parametrize(("dim", "dim_v"), [(24, 24), (80, 80), (32, 48), (256, 256)])
def test_head_sizes_that_are_no_power_of_two(dim: int, dim_v: int, device: str) -> None:
    check(spec_of((4, 2), dim, dim_v=dim_v), [1, 20], [40, 3], device)


def test_a_padded_decode_bucket_has_launches_that_depend_on_it_alone(device: str) -> None:
    bucket = Bucket("decode", 4, 4, 1)
    spec = spec_of((4, 2), 32)
    check(spec, [1, 1], [90, 200], device, bucket)
    backend = PagedAttention(spec, Device(device))  # type: ignore[arg-type]
    plans = {
        backend.build(make_step(spec, [1] * n, [c] * n, device).batch, bucket).static
        for n, c in ((1, 3), (2, 300), (4, 50))
    }
    assert len(plans) == 1


def test_a_padded_mixed_bucket_leaves_idle_rows_finite(device: str) -> None:
    check(spec_of((4, 2), 32), [1, 9, 20], [90, 20, 0], device, Bucket("mixed", 64, 8))


def test_what_it_cannot_do_is_said(device: str) -> None:
    encoder = spec_of((4, 2), 32, causal=False)
    wide = spec_of((4, 2), 512)
    assert "causal" in PagedAttention.supports(encoder, Capabilities())[0]
    assert "512" in PagedAttention.supports(wide, Capabilities())[0]


def test_blocks_of_all_sequences_are_listed_one_after_another(device: str) -> None:
    tables = torch.arange(600, dtype=torch.int32, device=device).view(3, 200)
    starts = torch.tensor([0, 150, 150, 153], dtype=torch.int32, device=device)
    out = torch.zeros(153, dtype=torch.int32, device=device)
    list_blocks(tables, starts, out)
    assert out.tolist() == [*range(150), 400, 401, 402]


def test_tokens_are_written_to_their_slots_alone(device: str) -> None:
    cache = torch.zeros(2, 3, 16, 2, 8, device=device)
    k, v = torch.randn(2, 4, 2, 8, device=device)
    slots = torch.tensor([5, 0, 47, 16], dtype=torch.int32, device=device)
    write_tokens(k, v, cache[0], cache[1], slots)
    for held, new in zip(cache.flatten(1, 2), (k, v), strict=True):
        assert torch.equal(held[slots.long()], new)
        assert torch.count_nonzero(held) == torch.count_nonzero(new)
