"""Laws of the lists that say which program does which piece of attention."""

from __future__ import annotations

import numpy as np
import pytest

from inferplane_triton.attention.work import decode_items, prefill_tiles


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("window", [None, 1, 100])
@pytest.mark.parametrize("most", [1, 80])
def test_pieces_cover_each_context_once_and_stay_within_their_number(
    seed: int, window: int | None, most: int
) -> None:
    rng = np.random.default_rng(seed)
    lens = rng.integers(1, 5000, rng.integers(1, most + 1)).astype(np.int32)
    slots = int(rng.integers(1, 70))
    items = decode_items(lens, window, slots, 32, 64)
    assert len(items) <= len(lens) + slots
    assert (np.diff(items[:, 2] - items[:, 1]) <= 0).all(), "longest first"
    for seq, length in enumerate(lens):
        mine = items[items[:, 0] == seq]
        mine = mine[np.argsort(mine[:, 3])]
        begin = 0 if window is None else max(0, int(length) - window)
        assert mine[0, 1] == begin and mine[-1, 2] == length - 1
        assert (mine[1:, 1] == mine[:-1, 2]).all()
        assert mine[-1, 6] == length - 1 and (mine[:-1, 6] == -1).all()
        assert (mine[:, 5] == len(mine)).all() and (mine[:, 4] == mine[0, 3]).all()
    assert sorted(items[:, 3]) == list(range(len(items)))


def test_a_lone_sequence_is_spread_over_the_device() -> None:
    items = decode_items(np.array([4097], np.int32), None, 32, 64, 64)
    assert len(items) == 32


def test_tiles_cover_each_query_once() -> None:
    queries, context = np.array([1, 40, 7]), np.array([9, 0, 100])
    start = np.concatenate(([0], np.cumsum(queries))).astype(np.int32)
    tiles = prefill_tiles(start, (queries + context).astype(np.int32), 1, 16)
    rows = np.concatenate([np.arange(t[1], t[1] + t[2]) for t in tiles])
    assert sorted(rows) == list(range(1, 48))
    for seq, row, _, position in tiles:
        assert position - context[seq] == row - start[seq]
    assert (np.diff(tiles[:, 3]) <= 0).all(), "the dearest first"
