"""The blocks of the device: who holds each, which are free, which must be zeroed or waited for.

Knows nothing of sequences or tables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from inferplane.scheduling.free_list import FreeList, LowIdFreeList
from inferplane.scheduling.prefix_index import PrefixIndex

__all__ = ["BlockPool"]


class BlockPool:
    """Reference counts, free list and fences over blocks 1 .. num_blocks - 1; block 0 is scratch.

    A block may hold numbers nobody has proven finite: it was written by a step whose result is
    still out, or by a row that failed. Such a block is *dirty* and zeroed before its next use.
    """

    def __init__(
        self,
        num_blocks: int,
        index: PrefixIndex,
        prefer_low_ids: bool,
        on_evict: Callable[[bytes], None],
    ) -> None:
        self.index = index
        self.usable = num_blocks - 1
        self.refs = [0] * num_blocks
        self.free: FreeList = (LowIdFreeList if prefer_low_ids else FreeList)(num_blocks)
        self.zeroed: list[int] = []
        """Blocks to zero before the next step that runs."""
        self.newest_step = 0
        """The newest step handed to the device."""
        self.settled_step = 0
        """The newest step whose result was applied."""
        self.num_fenced = 0
        """Blocks that will be free once a step in flight has ended."""
        self._dirty: dict[int, None] = {}
        self._fenced: deque[tuple[int, list[tuple[int, bool]]]] = deque()
        self._on_evict = on_evict

    @property
    def busy(self) -> bool:
        """Whether a step is in flight."""
        return self.newest_step > self.settled_step

    def pop(self) -> int:
        """Take the next free block for one holder, evicting what it cached."""
        block = self.free.pop()
        if self.index.keys[block] is not None:
            if block in self.index.pending:
                self._dirty[block] = None
            self._forget(block)
        if self._dirty and block in self._dirty:
            del self._dirty[block]
            self.zeroed.append(block)
        self.refs[block] = 1
        return block

    def touch(self, block: int) -> None:
        """One more holder of a cached block, which may be free."""
        if not self.refs[block]:
            self.free.remove(block)
        self.refs[block] += 1

    def release(self, blocks: Iterable[tuple[int, bool]], fence: bool = False) -> None:
        """One holder less of each (block, whether its content is proven finite), in this order.

        Behind a fence the holder goes only when the newest step in flight has ended.
        """
        if not fence or not self.busy:
            for block, proven in blocks:
                self._release(block, proven)
            return
        held = list(blocks)
        if held:
            self._fenced.append((self.newest_step, held))
            self.num_fenced = self._count_fenced()

    def settle(self, step: int) -> None:
        """The result of `step` and all before it was applied: open their fences."""
        self.settled_step = step
        while self._fenced and self._fenced[0][0] <= step:
            for block, proven in self._fenced.popleft()[1]:
                self._release(block, proven)
        if self.num_fenced:
            self.num_fenced = self._count_fenced()

    def unhash(self, block: int) -> None:
        """Its content is not to be trusted: nobody may find it, and it is zeroed before reuse."""
        self._dirty[block] = None
        if self.index.keys[block] is None:
            return
        self._forget(block)
        if not self.refs[block]:
            self.free.forget_digest(block)

    def clear(self) -> None:
        """Forget every digest; only while nothing is referenced."""
        for block in self.free.order():
            if block in self.index.pending:
                self._dirty[block] = None
            if self.index.keys[block] is not None:
                self.free.forget_digest(block)
        self.index.clear()

    def replaced(self) -> None:
        """The device came back empty, all blocks zero and no step in flight."""
        self.settle(self.newest_step)
        self.index.clear()
        self._dirty.clear()
        self.zeroed.clear()

    def dirty_blocks(self) -> list[int]:
        """Blocks to zero before their next use."""
        return list(self._dirty)

    def distrust(self, blocks: Iterable[int]) -> None:
        """Somebody else wrote into these free blocks: zero them before their next use."""
        self._dirty.update(dict.fromkeys(blocks))

    def fenced_blocks(self) -> list[int]:
        """Blocks held by fences, one entry a holder."""
        return [block for _, held in self._fenced for block, _ in held]

    def _release(self, block: int, proven: bool) -> None:
        self.refs[block] -= 1
        if self.refs[block]:
            return
        pending = self.index.pending.get(block)
        if pending is not None and pending[1] > self.settled_step:
            self._forget(block)
            proven = False
        if self.index.keys[block] is not None:
            self.free.push_hashed(block)
            return
        if not proven:
            self._dirty[block] = None
        self.free.push_unhashed(block)

    def _forget(self, block: int) -> None:
        key = self.index.remove(block)
        if key is not None:
            self._on_evict(key)

    def _count_fenced(self) -> int:
        held: dict[int, int] = {}
        for block in self.fenced_blocks():
            held[block] = held.get(block, 0) + 1
        return sum(self.refs[block] == count for block, count in held.items())
