"""Which blocks hold which content: the table from digests to blocks.

Knows nothing of reference counts or free lists.
"""

from __future__ import annotations

from inferplane.scheduling.sequence import Sequence

__all__ = ["PrefixIndex"]


class PrefixIndex:
    """From (digest, group) to the blocks with that content; several copies are allowed.

    A block is *pending* from the plan that will fill it until a sampled row proves it finite. A
    pending block may be adopted by later plans when `adopt` says so, by its own plan only when the
    back-end writes all K/V of a step before it reads any (`same_step`).
    """

    def __init__(self, num_blocks: int, adopt: bool, same_step: bool) -> None:
        self.adopt = adopt
        self.same_step = same_step
        self.keys: list[bytes | None] = [None] * num_blocks
        """For each block (digest, group), None = it cannot be looked up."""
        self.contents: list[int] = [-1] * num_blocks
        """True content for the check of hits; -1 = not recorded."""
        self.pending: dict[int, tuple[Sequence, int]] = {}
        """Block -> its producer and the step that fills it."""
        self.collisions = 0
        """Hits refused because the content differed under an equal digest."""
        self._blocks: dict[bytes, int | dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, block: int, key: bytes, content: int = -1) -> None:
        """Let `key` resolve to the block, or to one more block."""
        self.keys[block] = key
        self.contents[block] = content
        found = self._blocks.setdefault(key, block)
        if found == block:
            return
        if isinstance(found, int):
            self._blocks[key] = {found: None, block: None}
        else:
            found[block] = None

    def remove(self, block: int) -> bytes | None:
        """Forget a block that can be looked up; returns its key if no other block has it."""
        key = self.keys[block]
        assert key is not None
        self.pending.pop(block, None)
        self.keys[block] = None
        found = self._blocks[key]
        if isinstance(found, int):
            del self._blocks[key]
            return key
        del found[block]
        if len(found) == 1:
            self._blocks[key] = next(iter(found))
        return None

    def clear(self) -> None:
        """Forget every block."""
        self.keys = [None] * len(self.keys)
        self.pending.clear()
        self._blocks.clear()

    def find(self, key: bytes, step: int, adopts: bool = True, content: int = -1) -> int:
        """The canonical block a plan for `step` may use, 0 = none; proven ones come first."""
        found = self._blocks.get(key)
        if found is None:
            return 0
        if content < 0 and isinstance(found, int) and found not in self.pending:
            return found
        adoptable = 0
        for block in (found,) if isinstance(found, int) else found:
            if content >= 0 and self.contents[block] != content:
                self.collisions += 1
                continue
            pending = self.pending.get(block)
            if pending is None:
                return block
            filled = pending[1] < step or (self.same_step and pending[1] == step)
            if self.adopt and adopts and filled and not adoptable:
                adoptable = block
        return adoptable

    def copies(self, key: bytes) -> list[int]:
        """All blocks with this content, oldest first."""
        found = self._blocks[key]
        return [found] if isinstance(found, int) else list(found)
