"""Block tables of running sequences as arrays: row = lane, kept up by differences."""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import Array, KVGroup
from inferplane.scheduling.sequence import Sequence

__all__ = ["Lanes", "gather_rows"]


class Lanes:
    """One i32[num_lanes, max_blocks] table a KV group; entries nobody uses are 0."""

    def __init__(self, num_lanes: int, max_blocks: int, groups: tuple[KVGroup, ...]) -> None:
        self.owners: list[Sequence | None] = [None] * num_lanes
        self.tables = tuple(np.zeros((num_lanes, max_blocks), np.int32) for _ in groups)
        self._filled = [[0] * num_lanes for _ in groups]
        self._dropped = [[0] * num_lanes for _ in groups]
        self._windows = [group.window is not None for group in groups]
        self._single = len(groups) == 1 and not self._windows[0]

    def enter(self, lane: int, sequence: Sequence) -> None:
        """The sequence takes the lane, with other blocks than whoever had it before."""
        self.owners[lane] = sequence
        for table, filled, dropped in zip(self.tables, self._filled, self._dropped, strict=True):
            table[lane, : filled[lane]] = 0
            filled[lane] = dropped[lane] = 0

    def sync(self, lane: int, sequence: Sequence) -> int:
        """Copy what the sequence's tables gained or dropped; the longest table's length.

        Tables only grow at their end, and only windowed ones turn entries to 0, at their front.
        """
        if self._single:  # the common case, spelt out: this runs for every sequence of every step
            blocks = sequence.tables[0]
            if len(blocks) != self._filled[0][lane]:
                self._extend(0, lane, blocks)
            return len(blocks)
        longest = 0
        for group, blocks in enumerate(sequence.tables):
            if len(blocks) != self._filled[group][lane]:
                self._extend(group, lane, blocks)
            if self._windows[group]:
                self._drop(group, lane, blocks)
            longest = max(longest, len(blocks))
        return longest

    def _extend(self, group: int, lane: int, blocks: list[int]) -> None:
        filled = self._filled[group]
        held = filled[lane]
        if len(blocks) > held:
            self.tables[group][lane, held : len(blocks)] = blocks[held:]
        else:
            self.tables[group][lane, len(blocks) : held] = 0
        filled[lane] = len(blocks)

    def _drop(self, group: int, lane: int, blocks: list[int]) -> None:
        first = dropped = self._dropped[group][lane]
        while dropped < len(blocks) and blocks[dropped] == 0:
            dropped += 1
        if dropped > first:
            self.tables[group][lane, first:dropped] = 0
            self._dropped[group][lane] = dropped


def gather_rows(table: Array, lanes: Array, width: int) -> Array:
    """C-contiguous i32[S,width] rows of a lane table."""
    rows: Array = table[:, :width].take(lanes, axis=0)
    return rows
