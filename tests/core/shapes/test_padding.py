"""Laws of padding a step to a bucket."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplane.interfaces import Bucket, StepBatch
from inferplane.shapes import last_rows, pad, shape_of

BLOCK = 4


def step(lengths: list[int], contexts: list[int] | None = None) -> StepBatch:
    contexts = contexts or lengths
    start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    total = int(start[-1])
    return StepBatch(
        step=0,
        num_decodes=sum(n == 1 for n in lengths),
        token_ids=np.arange(100, 100 + total, dtype=np.int32),
        token_source=np.full(total, -1, np.int32),
        positions=np.arange(1, 1 + total, dtype=np.int32),
        query_start=start,
        seq_lens=np.array(contexts, np.int32),
        lanes=np.arange(len(lengths), dtype=np.int32),
        block_tables=(np.full((len(lengths), 2), 7, np.int32),),
        slots=(np.arange(28, 28 + total, dtype=np.int32),),
        sampled=np.arange(len(lengths), dtype=np.int32),
        scored=np.array([[total - 1, 5]], np.int32),
    )


def test_a_packed_bucket_keeps_token_rows_and_appends_padding() -> None:
    padded = pad(step([1, 2]), Bucket("mixed", 8, 4), BLOCK, table_width=3)
    assert padded.token_ids.tolist() == [100, 101, 102, 0, 0, 0, 0, 0]
    assert padded.positions.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert padded.query_start.tolist() == [0, 1, 3, 4, 5]
    assert padded.seq_lens.tolist() == [1, 2, 1, 1]
    assert padded.lanes.tolist() == [0, 1, -1, -1]
    assert padded.slots[0].tolist() == [28, 29, 30, 3, 0, 1, 2, 3]
    assert padded.block_tables[0].tolist() == [[7, 7, 0], [7, 7, 0], [0, 0, 0], [0, 0, 0]]


def test_padding_sequences_get_one_token_while_padding_tokens_last() -> None:
    padded = pad(step([1, 2]), Bucket("mixed", 4, 4), BLOCK)
    assert padded.query_start.tolist() == [0, 1, 3, 4, 4]


def test_a_rectangular_bucket_puts_each_sequence_in_its_own_row() -> None:
    bucket = Bucket("prefill", 12, 3, max_query=4, rectangular=True)
    padded = pad(step([3, 2]), bucket, BLOCK)
    assert padded.token_ids.tolist() == [100, 101, 102, 0, 103, 104, 0, 0, 0, 0, 0, 0]
    assert np.diff(padded.query_start).tolist() == [3, 2, 1]
    assert last_rows(padded, bucket).tolist() == [2, 5, 8]
    assert padded.scored is not None and padded.scored.tolist() == [[5, 5]]


def test_padding_slots_stay_inside_block_zero() -> None:
    padded = pad(step([1]), Bucket("decode", 64, 64), BLOCK)
    assert set(padded.slots[0][1:].tolist()) == {0, 1, 2, 3}


def test_a_step_that_has_the_shape_is_returned_as_it_is() -> None:
    padded = pad(step([1, 2]), Bucket("mixed", 8, 4), BLOCK, table_width=3)
    assert pad(padded, Bucket("mixed", 8, 4), BLOCK) is padded


def test_a_step_of_the_size_gets_wider_tables_alone() -> None:
    exact = step([1, 2])
    padded = pad(exact, Bucket("mixed", 3, 2), BLOCK, table_width=9)
    (table,), (before,) = padded.block_tables, exact.block_tables
    assert table.shape == (2, 9) and np.array_equal(table[:, : before.shape[1]], before)
    assert not table[:, before.shape[1] :].any()
    assert padded.token_ids is exact.token_ids and padded.slots is exact.slots


@pytest.mark.parametrize(
    "bucket",
    [
        Bucket("mixed", 2, 4),
        Bucket("mixed", 8, 1),
        Bucket("prefill", 8, 8, max_query=1, rectangular=True),
    ],
)
def test_a_step_larger_than_its_bucket_is_refused(bucket: Bucket) -> None:
    with pytest.raises(ValueError, match="exceeds"):
        pad(step([1, 2]), bucket, BLOCK)


def test_shape_of_counts_blocks_over_all_sequences() -> None:
    shape = shape_of(step([1, 3], [5, 9]), BLOCK)
    assert (shape.num_tokens, shape.num_seqs, shape.num_decodes) == (4, 2, 1)
    assert (shape.max_query, shape.max_context, shape.context_blocks) == (3, 9, 2 + 3)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.booleans())
def test_every_token_of_a_padded_step_is_found_where_its_sequence_says(
    lengths: list[int], rectangular: bool
) -> None:
    batch = step(lengths)
    if rectangular:
        bucket = Bucket("mixed", 48, 8, max_query=6, rectangular=True)
    else:
        bucket = Bucket("mixed", 40, 8)
    padded = pad(batch, bucket, BLOCK)
    last = last_rows(padded, bucket)
    for i, length in enumerate(lengths):
        rows = slice(last[i] - length + 1, last[i] + 1)
        mine = slice(batch.query_start[i], batch.query_start[i + 1])
        assert padded.token_ids[rows].tolist() == batch.token_ids[mine].tolist()
        assert padded.slots[0][rows].tolist() == batch.slots[0][mine].tolist()
    assert len(padded.token_ids) == bucket.num_tokens and len(padded.lanes) == bucket.num_seqs
    assert (padded.token_ids >= 100).sum() == sum(lengths)
