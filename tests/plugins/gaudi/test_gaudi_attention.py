"""Attention over flat slots and lists of blocks, against the core's reference over tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.reference_attention import ReferenceAttention
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.interfaces import (
    Array,
    AttentionBackend,
    AttentionMeta,
    AttentionSpec,
    Bucket,
    Capabilities,
    KVGroup,
    KVPlan,
    LayerKV,
    StepBatch,
)
from inferplane.shapes import pad, shape_of
from inferplane_gaudi.attention.flat import FlatAttention
from inferplane_gaudi.attention.lists import list_blocks
from inferplane_gaudi.buckets import StepBuckets
from inferplane_gaudi.kv_store import FlatKVStore

SIZE, WIDTH, NUM_BLOCKS, DIM = 16, 6, 40, 8
POLICY = StepBuckets(6, 800, SIZE * WIDTH, SIZE)
CAPS = Capabilities(compute_dtypes=("float32",), kv_dtypes=("float32",))
HEADS = ((4, 2), (3, 3), (4, 1))


@dataclass(frozen=True)
class Step:
    """Sequences of one step, each in blocks drawn at random, with room for junk between them."""

    spec: AttentionSpec
    batch: StepBatch
    seed: int

    @property
    def bucket(self) -> Bucket:
        bucket = POLICY.select(shape_of(self.batch, SIZE))
        assert bucket is not None
        return bucket

    def rows(self, bucket: Bucket | None) -> Tensor:
        """i64[T]: where a bucket has the step's tokens."""
        start, count = self.batch.query_start, len(self.batch.token_ids)
        if bucket is None or not bucket.rectangular:
            return torch.arange(count)
        owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
        return torch.from_numpy(np.arange(count) - start[owner] + owner * bucket.max_query)

    def tensors(self, bucket: Bucket | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q, k, v with rows of junk where the bucket pads, and sinks."""
        torch.manual_seed(self.seed)
        spec, count = self.spec, len(self.batch.token_ids)
        total = count if bucket is None else bucket.num_tokens
        shapes = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        made = []
        for heads in shapes:
            junk = torch.full((total, heads, DIM), 1e3)
            made.append(junk.index_copy(0, self.rows(bucket), torch.randn(count, heads, DIM)))
        sinks = torch.randn(spec.num_heads) if spec.sinks else None
        return made[0], made[1], made[2], sinks

    def run(self, kind: type[AttentionBackend], bucket: Bucket | None) -> tuple[Tensor, Array]:
        """(real rows of the result, keys of every slot but block 0's afterwards)."""
        runtime = HostRuntime()
        store = FlatKVStore(runtime, TorchAllocator())
        layer = LayerKV("layer", self.spec.num_kv_heads, DIM, DIM, "float32")
        store.allocate(KVPlan(NUM_BLOCKS, SIZE, (KVGroup((layer,), self.spec.window),)))
        rng = np.random.default_rng(self.seed)
        slots = np.arange(NUM_BLOCKS * SIZE, dtype=np.int32)
        shape = (len(slots), self.spec.num_kv_heads, DIM)
        k, v = (rng.normal(0, 1, shape).astype(np.float32) for _ in range(2))
        store.write_tokens("layer", slots, k, v)
        backend = kind(self.spec, runtime)
        meta = backend.build(self.batch, bucket)
        arrays = runtime.to_device(meta.arrays, None)
        q, new_k, new_v, sinks = self.tensors(bucket)
        ready = AttentionMeta(meta.static, arrays)
        out = backend.forward(q, new_k, new_v, store.layer("layer"), ready, sinks)
        return out[self.rows(bucket)], store.read_tokens("layer", slots[SIZE:])[0]


@st.composite
def steps(draw: st.DrawFn, kind: str) -> Step:
    heads, kv_heads = draw(st.sampled_from(HEADS))
    window = draw(st.sampled_from((None, None, 1, 5, SIZE, SIZE + 1, 3 * SIZE)))
    softcap = draw(st.sampled_from((None, None, 4.0)))
    spec = AttentionSpec(
        heads, kv_heads, DIM, DIM, "float32", "float32", 0.3, SIZE, window=window,
        softcap=softcap, sinks=draw(st.booleans()),
    )  # fmt: skip
    longest = SIZE * WIDTH
    if kind == "decode":
        contexts = draw(st.lists(st.integers(1, longest), min_size=1, max_size=6))
        queries = [1] * len(contexts)
    elif kind == "prompt":
        contexts = queries = [draw(st.integers(1, 80))]
    elif kind == "company":
        contexts = draw(st.lists(st.integers(1, longest), min_size=2, max_size=6))
        queries = [draw(st.integers(1, context)) for context in contexts]
    else:
        contexts = [draw(st.integers(2, longest))]
        queries = [draw(st.integers(1, min(80, contexts[0] - 1)))]
    seed = draw(st.integers(0, 1000))
    return Step(spec, batch_of(contexts, queries, kind == "decode", window, seed), seed)


def batch_of(
    contexts: list[int], queries: list[int], decodes: bool, window: int | None, seed: int
) -> StepBatch:
    rng = np.random.default_rng(seed)
    free = (1 + rng.permutation(NUM_BLOCKS - 1)).tolist()
    table = np.zeros((len(contexts), WIDTH), np.int32)
    lens, counts = np.array(contexts, np.int32), np.array(queries, np.int32)
    for row, (context, query) in enumerate(zip(contexts, queries, strict=True)):
        low = 0 if window is None else max(0, context - query - window + 1) // SIZE
        for place in range(low, -(-context // SIZE)):  # blocks left of the window are freed
            table[row, place] = free.pop()
    start = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    owner = np.repeat(np.arange(len(contexts)), counts)
    positions = (np.arange(start[-1]) - start[owner] + (lens - counts)[owner]).astype(np.int32)
    slots = (table[owner, positions // SIZE] * SIZE + positions % SIZE).astype(np.int32)
    return StepBatch(
        step=1,
        num_decodes=len(contexts) if decodes else 0,
        token_ids=np.zeros(len(positions), np.int32),
        token_source=np.full(len(positions), -1, np.int32),
        positions=positions,
        query_start=start,
        seq_lens=lens,
        lanes=np.arange(len(contexts), dtype=np.int32),
        block_tables=(table,),
        slots=(slots,),
        sampled=np.arange(len(contexts), dtype=np.int32),
    )


def assert_agrees(step: Step, bucket: Bucket | None) -> None:
    want, want_kv = step.run(ReferenceAttention, None)
    got, got_kv = step.run(FlatAttention, bucket)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got_kv, want_kv)  # padding wrote nowhere but into block 0


@pytest.mark.parametrize("kind", ["decode", "prompt", "company", "continued"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_each_form_is_the_reference_in_its_own_bucket(kind: str, data: st.DataObject) -> None:
    step = data.draw(steps(kind))
    form = FlatAttention(step.spec, HostRuntime()).build(step.batch, step.bucket).static
    assert form == ("listed" if kind == "decode" else kind)
    assert_agrees(step, step.bucket)


@given(step=steps("decode"), data=st.data())
@settings(max_examples=40, deadline=None)
def test_rows_of_any_step_are_the_reference_without_a_bucket(
    step: Step, data: st.DataObject
) -> None:
    assert_agrees(step, None)
    packed = Bucket("mixed", len(step.batch.token_ids) + 5, len(step.batch.seq_lens) + 2)
    assert_agrees(step, packed)


@given(step=steps("decode"))
@settings(max_examples=60, deadline=None)
def test_the_list_names_each_block_in_use_once_and_nothing_else(step: Step) -> None:
    batch, size = pad(step.batch, step.bucket, SIZE), step.bucket.context_blocks
    lists = list_blocks(batch.block_tables[0], batch.positions, SIZE, step.spec.window, size)
    assert {len(x) for x in lists.values()} == {size}
    real = lists["groups"] < step.bucket.num_seqs
    assert not lists["blocks"][~real].any() and (lists["last"][~real] < 0).all()
    assert len(set(lists["blocks"][real].tolist())) == int(real.sum())
    seen = np.bincount(
        lists["groups"][real], (lists["last"] - lists["first"] + 1)[real], step.bucket.num_seqs
    )
    window = step.spec.window or SIZE * WIDTH
    want = np.minimum(step.batch.seq_lens, window)
    assert seen[: len(want)].tolist() == want.tolist() and not seen[len(want) :].any()


def test_more_blocks_than_the_bucket_holds_are_an_error() -> None:
    table, positions = np.ones((2, 2), np.int32), np.array([20, 3], np.int32)
    with pytest.raises(ValueError, match="3 blocks are in use, the bucket has room for 2"):
        list_blocks(table, positions, SIZE, None, 2)


def test_a_row_that_is_no_number_leaves_its_neighbours_alone() -> None:
    spec = AttentionSpec(4, 2, DIM, DIM, "float32", "float32", 0.3, SIZE)
    step = Step(spec, batch_of([20, 33, 5], [1, 1, 1], True, None, 3), 3)

    class Poisoned(FlatAttention):
        def forward(self, q, k, v, kv, meta, sinks=None):  # type: ignore[no-untyped-def]
            broken = k.clone()
            broken[1] = torch.nan
            return super().forward(q, broken, v, kv, meta, sinks)

    want, _ = step.run(FlatAttention, step.bucket)
    got, _ = step.run(Poisoned, step.bucket)
    assert got[1].isnan().all() and torch.equal(got[[0, 2]], want[[0, 2]])


def test_what_is_not_served_is_refused_with_reasons() -> None:
    spec = AttentionSpec(4, 2, DIM, DIM, "float32", "float32", 0.3, SIZE)
    assert FlatAttention.supports(spec, CAPS) == ()
    for change, told in (
        ({"kv_dtype": "fp8"}, "stores KV in float32"),
        ({"drafts": 2}, "one token of a sequence"),
        ({"cached": False}, "needs a KV cache"),
        ({"dtype": "float16"}, "computes in float32"),
    ):
        assert told in "; ".join(FlatAttention.supports(replace(spec, **change), CAPS))  # type: ignore[arg-type]
