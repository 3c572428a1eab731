"""A KV cache of digests: one KV group of the null device, able to say whose tokens a slot holds.

Legend: T tokens, S sequences, P table width.
"""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import Array, StepBatch

__all__ = ["ShadowKV", "mix", "next_token"]

_STREAM, _PLACE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_STIR1, _STIR2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def mix(a: Array, b: Array) -> Array:
    """One u64 for each pair of u64 (SplitMix64 of Steele, Lea and Flood, OOPSLA 2014)."""
    word: Array = (a + np.uint64(1)) * _STREAM + b * _PLACE
    word = (word ^ (word >> _SHIFTS[0])) * _STIR1
    word = (word ^ (word >> _SHIFTS[1])) * _STIR2
    mixed: Array = word ^ (word >> _SHIFTS[2])
    return mixed


def next_token(digests: Array, vocab_size: int) -> Array:
    """i32: the token that follows a prefix with this digest."""
    drawn: Array = (mix(digests, digests) % np.uint64(vocab_size)).astype(np.int32)
    return drawn


class ShadowKV:
    """Digest, share and position of the token in each slot.

    A token's share is `mix(token, position)`; its digest is the sum of the shares up to it,
    modulo 2^64, so that a slot names the whole prefix it belongs to.
    """

    def __init__(self, num_blocks: int, block_size: int, window: int | None) -> None:
        self.block_size = block_size
        self.window = window
        slots = num_blocks * block_size
        self.digests = np.zeros(slots, np.uint64)
        self.shares = np.zeros(slots, np.uint64)
        self.positions = np.full(slots, -1, np.int64)
        self.poisoned: dict[int, int] = {}
        """Blocks a failed row wrote and nobody has zeroed since -> its lane, -1 = released."""

    def step(self, batch: StepBatch, group: int, token_ids_T: Array) -> Array:
        """Zero, copy, write this step's tokens; u64[T] digests. Raises AssertionError."""
        if batch.zeroed is not None:
            self._zero(batch.zeroed)
        if batch.copied is not None:
            self._copy(batch.copied)
        slots_T, positions_T = batch.slots[group], batch.positions
        seq_T = np.repeat(np.arange(len(batch.lanes)), np.diff(batch.query_start))
        table = batch.block_tables[group]
        block_T = table[seq_T, positions_T // self.block_size]
        expected = block_T * self.block_size + positions_T % self.block_size
        assert (slots_T == expected).all(), "slots and block tables disagree"
        assert (block_T > 0).all(), "a real token would be written to scratch block 0"
        assert len(np.unique(slots_T)) == len(slots_T), "two tokens of a step share a slot"
        if self.poisoned:
            self._check_poison(batch, block_T, seq_T)
        first_S = batch.query_start[:-1]
        shares_T = mix(token_ids_T.astype(np.uint64), positions_T.astype(np.uint64))
        sums_T = np.cumsum(shares_T, dtype=np.uint64)
        before_S = self._before(table, positions_T[first_S]) - sums_T[first_S] + shares_T[first_S]
        digests_T: Array = sums_T + before_S[seq_T]
        self.digests[slots_T], self.shares[slots_T] = digests_T, shares_T
        self.positions[slots_T] = positions_T
        return digests_T

    def check(self, batch: StepBatch, group: int) -> None:
        """Assert that every slot a sequence would read holds its own token of its own prefix."""
        starts = batch.positions[batch.query_start[:-1]].tolist()
        for row, (start, length) in enumerate(zip(starts, batch.seq_lens.tolist(), strict=True)):
            low = max(0, start - self.window + 1) if self.window else 0
            positions = np.arange(low, length)
            blocks = batch.block_tables[group][row, positions // self.block_size]
            slots = blocks * self.block_size + positions % self.block_size
            where = f"group {group}, lane {batch.lanes[row]}, positions {low}..{length}"
            assert (blocks > 0).all(), f"a needed block is missing from the table: {where}"
            assert (self.positions[slots] == positions).all(), f"stale positions: {where}"
            digests, shares = self.digests[slots], self.shares[slots]
            assert (digests[1:] - digests[:-1] == shares[1:]).all(), f"foreign tokens: {where}"
            assert low or digests[0] == shares[0], f"foreign first token: {where}"

    def poison(self, batch: StepBatch, group: int, sequences: Array) -> None:
        """What failed rows wrote is not finite until it is zeroed."""
        for row in sequences.tolist():
            slots = batch.slots[group][batch.query_start[row] : batch.query_start[row + 1]]
            blocks = (slots // self.block_size).tolist()
            self.poisoned.update(dict.fromkeys(blocks, int(batch.lanes[row])))

    def _check_poison(self, batch: StepBatch, block_T: Array, seq_T: Array) -> None:
        """A failed row may write on while its end is not known; nobody else may."""
        released = set() if batch.released is None else set(batch.released.tolist())
        for block, lane in self.poisoned.items():
            if lane in released:
                self.poisoned[block] = -1
        for block, lane in zip(block_T.tolist(), batch.lanes[seq_T].tolist(), strict=True):
            owner = self.poisoned.get(block, lane)
            assert owner == lane, f"block {block} of a failed row is reused without zeroing"

    def _before(self, table_SP: Array, first_S: Array) -> Array:
        """u64[S]: digest of the token before each sequence's first one of this step."""
        previous = np.maximum(first_S - 1, 0)
        blocks = table_SP[np.arange(len(first_S)), previous // self.block_size]
        slots = blocks * self.block_size + previous % self.block_size
        assert ((first_S == 0) | (self.positions[slots] == previous)).all(), (
            "the token before this step's first is not in the cache"
        )
        return np.where(first_S > 0, self.digests[slots], np.uint64(0))

    def _zero(self, blocks: Array) -> None:
        slots = self._slots(blocks)
        self.digests[slots] = self.shares[slots] = 0
        self.positions[slots] = -1
        for block in blocks.tolist():
            self.poisoned.pop(block, None)

    def _copy(self, pairs: Array) -> None:
        source, target = self._slots(pairs[:, 0]), self._slots(pairs[:, 1])
        for array in (self.digests, self.shares, self.positions):
            array[target] = array[source]

    def _slots(self, blocks: Array) -> Array:
        slots: Array = blocks[:, None] * self.block_size + np.arange(self.block_size)
        return slots.reshape(-1)
