"""Free blocks in the order they are handed out; any of them can be taken out in O(1)."""

from __future__ import annotations

from heapq import heappop, heappush

__all__ = ["FreeList", "LowIdFreeList"]


class FreeList:
    """Doubly linked list over block ids 1 .. num_blocks - 1.

    Block 0 is never in it: its cells are the two ends of the list. Blocks without a digest go to
    the front and are used again at once; blocks with one go to the back, so the head of the list is
    always the least recently used.
    """

    def __init__(self, num_blocks: int) -> None:
        """A fresh pool hands out 1, 2, 3, …"""
        self._next: list[int] = [*range(1, num_blocks), 0]
        self._previous = [num_blocks - 1, *range(num_blocks - 1)]
        self._size = num_blocks - 1

    def __len__(self) -> int:
        return self._size

    def pop(self) -> int:
        """Take the head. Raises IndexError when nothing is free."""
        links = self._next
        block = links[0]
        if not block:
            raise IndexError("no free block: ask for the shortage first")
        links[0] = after = links[block]
        self._previous[after] = 0
        self._size -= 1
        return block

    def remove(self, block: int) -> None:
        """Take out a block that is in the list."""
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before
        self._size -= 1

    def push_unhashed(self, block: int) -> None:
        """Put a block nobody can look up at the front."""
        self._link(0, block, self._next[0])

    def push_hashed(self, block: int) -> None:
        """Put a block that can still be looked up at the back."""
        self._link(self._previous[0], block, 0)

    def order(self) -> list[int]:
        """All free blocks, next to be used first."""
        ids, block = [], self._next[0]
        while block:
            ids.append(block)
            block = self._next[block]
        return ids

    def forget_digest(self, block: int) -> None:
        """A block in the list lost its digest: nobody can look it up any more."""
        self.remove(block)
        self.push_unhashed(block)

    def _link(self, before: int, block: int, after: int) -> None:
        self._next[before] = self._previous[after] = block
        self._previous[block], self._next[block] = before, after
        self._size += 1


class LowIdFreeList(FreeList):
    """Hands out blocks without a digest lowest id first, then the others least recently used."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks)
        self._next = [0] * num_blocks
        self._previous = [0] * num_blocks
        self._low = list(range(1, num_blocks))

    def pop(self) -> int:
        """Take the lowest id without a digest, else the head of the others."""
        if not self._low:
            return super().pop()
        self._size -= 1
        return heappop(self._low)

    def push_unhashed(self, block: int) -> None:
        """Put a block nobody can look up among the low ones."""
        heappush(self._low, block)
        self._size += 1

    def order(self) -> list[int]:
        """All free blocks, next to be used first."""
        return sorted(self._low) + super().order()
