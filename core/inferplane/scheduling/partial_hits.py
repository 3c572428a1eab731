"""Prefixes that end inside a cached block: what to copy from where.

Knows nothing of who holds the blocks; an entry counts only while its block still has the content.
"""

from __future__ import annotations

from inferplane.scheduling.digest_chain import DigestChain
from inferplane.scheduling.prefix_index import PrefixIndex
from inferplane.scheduling.sequence import Sequence

__all__ = ["PartialIndex"]


class PartialIndex:
    """Digests of the first 1, 2, … units of each proven block."""

    def __init__(self, unit: int, block_size: int, chain: DigestChain, index: PrefixIndex) -> None:
        self._unit = unit
        self._block_size = block_size
        self._chain = chain
        self._index = index
        self._blocks: dict[bytes, tuple[int, bytes | None]] = {}
        self._parts: dict[int, list[bytes]] = {}

    def add(self, sequence: Sequence, index: int, block: int) -> None:
        """Enter the sequence's block number `index`, which can be looked up as a whole already."""
        for part in self._parts.pop(block, ()):
            if self._blocks.get(part, (0, None))[0] == block:
                del self._blocks[part]
        lengths = range(self._unit, self._block_size, self._unit)
        parts = [self._chain.part(sequence, index, length) for length in lengths]
        for part in parts:
            self._blocks[part] = (block, self._index.keys[block])
        self._parts[block] = parts

    def find(self, sequence: Sequence, index: int, most: int) -> tuple[int, int]:
        """(block, tokens): the longest beginning of block number `index`, of at most `most` tokens.

        (0, 0) = none.
        """
        longest = min(most, self._block_size - 1) // self._unit * self._unit
        pending = self._index.pending
        for length in range(longest, 0, -self._unit):
            block, key = self._blocks.get(self._chain.part(sequence, index, length), (0, None))
            if key is not None and self._index.keys[block] == key and block not in pending:
                return block, length
        return 0, 0

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._parts.clear()
