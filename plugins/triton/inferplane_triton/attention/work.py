"""The work lists of attention kernels: which program does which piece; numpy alone."""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import Array

__all__ = ["decode_items", "fresh_run", "prefill_tiles", "whole_prompts"]


def decode_items(
    seq_lens: Array, window: int | None, piece_slots: int, tile: int, min_piece: int
) -> Array:
    """i32[<= S + piece_slots, 8]: pieces of each sequence's cached context, longest first.

    Columns: sequence, start, stop, piece, its sequence's first piece, pieces, position of the new
    token in the last piece and -1 in others, 0. The pieces of a sequence are equally long, and
    there are at most `piece_slots` more pieces than sequences.
    """
    if len(seq_lens) == 1:
        return _lone_items(int(seq_lens[0]), window, piece_slots, tile, min_piece)
    stop = seq_lens.astype(np.int64) - 1
    start = np.zeros_like(stop) if window is None else np.maximum(stop + 1 - window, 0)
    span = stop - start
    piece = max(min_piece, -(-int(span.sum()) // piece_slots))
    pieces = np.maximum(-(-span // piece), 1)
    even = -(-span // pieces)
    length = -(-even // tile) * tile
    pieces = np.where(length > 0, np.maximum(-(-span // np.maximum(length, 1)), 1), 1)
    seq = np.repeat(np.arange(len(stop)), pieces)
    first = np.cumsum(pieces) - pieces
    index = np.arange(len(seq)) - first[seq]
    items = np.zeros((len(seq), 8), np.int32)
    items[:, 0] = seq
    items[:, 1] = start[seq] + index * length[seq]
    items[:, 2] = np.minimum(items[:, 1] + length[seq], stop[seq])
    items[:, 3] = np.arange(len(seq))
    items[:, 4] = first[seq]
    items[:, 5] = pieces[seq]
    items[:, 6] = np.where(index == pieces[seq] - 1, stop[seq], -1)
    order = np.argsort(items[:, 1] - items[:, 2], kind="stable")
    return np.ascontiguousarray(items[order])


def _lone_items(
    seq_len: int, window: int | None, piece_slots: int, tile: int, min_piece: int
) -> Array:
    """As `decode_items` for one sequence, without its arrays: at batch 1 the host is in a hurry."""
    stop = seq_len - 1
    start = 0 if window is None else max(seq_len - window, 0)
    span = stop - start
    pieces = max(-(-span // max(min_piece, -(-span // piece_slots))), 1)
    even = -(-span // pieces)
    length = -(-even // tile) * tile
    pieces = max(-(-span // length), 1) if length else 1
    items = np.zeros((pieces, 8), np.int32)
    items[:, 3] = np.arange(pieces)
    items[:, 1] = start + items[:, 3] * length
    items[:, 2] = items[:, 1] + length
    items[:, 5] = pieces
    items[:, 6] = -1
    items[-1, 2] = items[-1, 6] = stop
    return items


def whole_prompts(
    query_start: Array, seq_lens: Array, first_seq: int, tokens: int
) -> tuple[tuple[int, int], ...]:
    """Token rows (begin, end) of sequences from `first_seq` on, of at least `tokens` new tokens
    and no cached ones."""
    lengths = np.diff(query_start)[first_seq:]
    fresh = (lengths >= tokens) & (lengths == seq_lens[first_seq:])
    rows = np.flatnonzero(fresh) + first_seq
    return tuple((int(query_start[row]), int(query_start[row + 1])) for row in rows)


def fresh_run(query_start: Array, seq_lens: Array, first_seq: int) -> tuple[int, int]:
    """Sequences (begin, end) from `first_seq` on without cached tokens, when they are neighbours;
    (0, 0) = there is no such run."""
    fresh = np.flatnonzero(np.diff(query_start)[first_seq:] == seq_lens[first_seq:]) + first_seq
    if not len(fresh) or fresh[-1] - fresh[0] + 1 != len(fresh):
        return 0, 0
    return int(fresh[0]), int(fresh[-1]) + 1


def prefill_tiles(
    query_start: Array,
    seq_lens: Array,
    first_seq: int,
    tokens: int,
    without: tuple[tuple[int, int], ...] = (),
) -> Array:
    """i32[N,4]: (sequence, first token row, tokens, position of the first), dearest first.

    Sequences from `first_seq` on, `tokens` of each at a time; none for the rows in `without`.
    """
    begin = query_start[first_seq:-1].astype(np.int64)
    length = query_start[first_seq + 1 :].astype(np.int64) - begin
    context = seq_lens[first_seq:].astype(np.int64) - length
    count = -(-length // tokens)
    count[np.isin(begin, [rows[0] for rows in without]) & (length > 0)] = 0
    seq = np.repeat(np.arange(len(length)), count)
    index = np.arange(len(seq)) - (np.cumsum(count) - count)[seq]
    offset = index * tokens
    tiles = np.zeros((len(seq), 4), np.int32)
    tiles[:, 0] = seq + first_seq
    tiles[:, 1] = begin[seq] + offset
    tiles[:, 2] = np.minimum(tokens, length[seq] - offset)
    tiles[:, 3] = context[seq] + offset
    order = np.argsort(-tiles[:, 3].astype(np.int64), kind="stable")
    return np.ascontiguousarray(tiles[order])
