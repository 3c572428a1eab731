"""Padding of one step to a bucket; knows nothing of devices.

T tokens, S sequences, G KV groups.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inferplane.interfaces import Array, Bucket, StepBatch, StepShape

__all__ = ["last_rows", "pad", "shape_of"]


def shape_of(batch: StepBatch, block_size: int) -> StepShape:
    """The size of an unpadded step; `context_blocks` counts blocks of `block_size` tokens."""
    lens = batch.seq_lens
    decodes = batch.num_decodes == len(lens) == len(batch.token_ids)
    return StepShape(
        num_tokens=len(batch.token_ids),
        num_seqs=len(lens),
        num_decodes=batch.num_decodes,
        max_query=1 if decodes else int(np.diff(batch.query_start).max(initial=0)),
        max_context=int(lens.max(initial=0)),
        context_blocks=int((-(-lens // block_size)).sum()),
    )


def pad(batch: StepBatch, bucket: Bucket, block_size: int = 16, table_width: int = 0) -> StepBatch:
    """The step with exactly `bucket`'s sizes; a step that has them already is returned as it is.

    A padding token has id 0, position 0 and a slot inside block 0, cycling over `block_size`. A
    padding sequence has seq_len 1, table row 0, lane -1 and one token while padding tokens last,
    then none; further padding tokens belong to no sequence. A packed bucket keeps token rows. A
    rectangular one puts token j of sequence i at row `i * max_query + j`; its `query_start` goes on
    counting tokens, so that its differences are query lengths in both forms. Tables grow to
    `table_width` entries (0 = they keep theirs). `sampled`, `embedded` and `sampling` name
    sequences and stay; token rows in `scored` move along. Raises ValueError when it does not fit.
    """
    num_seqs, num_tokens = len(batch.seq_lens), len(batch.token_ids)
    width = max(table_width, max((t.shape[1] for t in batch.block_tables), default=0))
    if (num_tokens, num_seqs) == (bucket.num_tokens, bucket.num_seqs):
        return _widened(batch, width)
    if num_seqs > bucket.num_seqs or num_tokens > bucket.num_tokens:
        raise ValueError(f"a step of {num_tokens} tokens, {num_seqs} sequences exceeds {bucket}")
    if bucket.rectangular:
        rows = _rectangle_rows(batch, bucket)
        num_extra = bucket.num_seqs - num_seqs  # each has its own row of tokens
    else:
        rows = None
        num_extra = min(bucket.num_seqs - num_seqs, bucket.num_tokens - num_tokens)
    query_start = np.full(bucket.num_seqs + 1, num_tokens + num_extra, np.int32)
    query_start[: num_seqs + 1] = batch.query_start
    query_start[num_seqs : num_seqs + num_extra + 1] = num_tokens + np.arange(num_extra + 1)
    idle = np.arange(bucket.num_tokens, dtype=np.int32) % block_size
    return replace(
        batch,
        token_ids=_placed(batch.token_ids, rows, np.zeros(bucket.num_tokens, np.int32)),
        token_source=_placed(batch.token_source, rows, np.full(bucket.num_tokens, -1, np.int32)),
        positions=_placed(batch.positions, rows, np.zeros(bucket.num_tokens, np.int32)),
        query_start=query_start,
        seq_lens=_placed(batch.seq_lens, None, np.ones(bucket.num_seqs, np.int32)),
        lanes=_placed(batch.lanes, None, np.full(bucket.num_seqs, -1, np.int32)),
        block_tables=tuple(_wider(t, bucket.num_seqs, width) for t in batch.block_tables),
        slots=tuple(_placed(s, rows, idle.copy()) for s in batch.slots),
        drafts=_drafts(batch, bucket),
        segments=None
        if batch.segments is None
        else _placed(batch.segments, rows, np.zeros(bucket.num_tokens, np.int32)),
        scored=_scored(batch, rows),
    )


def last_rows(batch: StepBatch, bucket: Bucket | None) -> Array:
    """i32[S]: the token row where each sequence of a (padded) step ends."""
    rows: Array
    if bucket is None or not bucket.rectangular:
        rows = np.maximum(batch.query_start[1:] - 1, 0)
        return rows
    lengths = np.diff(batch.query_start)
    first = np.arange(len(lengths), dtype=np.int32) * bucket.max_query
    rows = first + np.maximum(lengths - 1, 0)
    return rows


def _widened(batch: StepBatch, width: int) -> StepBatch:
    """The step with tables of `width` entries; itself where they have them."""
    if all(table.shape[1] == width for table in batch.block_tables):
        return batch
    num_seqs = len(batch.seq_lens)
    return replace(
        batch, block_tables=tuple(_wider(t, num_seqs, width) for t in batch.block_tables)
    )


def _rectangle_rows(batch: StepBatch, bucket: Bucket) -> Array:
    lengths = np.diff(batch.query_start)
    if lengths.max(initial=0) > bucket.max_query:
        raise ValueError(f"a query of {lengths.max()} tokens exceeds {bucket}")
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rows: Array = np.arange(len(owner)) + owner * bucket.max_query - batch.query_start[owner]
    return rows


def _placed(values: Array, rows: Array | None, into: Array) -> Array:
    into[slice(len(values)) if rows is None else rows] = values
    return into


def _wider(table: Array, num_seqs: int, width: int) -> Array:
    out = np.zeros((num_seqs, width), np.int32)
    out[: table.shape[0], : table.shape[1]] = table
    return out


def _drafts(batch: StepBatch, bucket: Bucket) -> Array | None:
    if batch.drafts is None:
        return None
    return _placed(batch.drafts, None, np.zeros(bucket.num_seqs, np.int32))


def _scored(batch: StepBatch, rows: Array | None) -> Array | None:
    if batch.scored is None or rows is None:
        return batch.scored
    moved = batch.scored.copy()
    moved[:, 0] = rows[moved[:, 0]]
    return moved
