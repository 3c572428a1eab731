"""Which values of a launch other instructions of the same launch read, and where those are left.

Blocks do not meet between two instructions: what one makes and another reads goes through words
that say themselves when they are there. Everything is stored as a tensor too, for who reads it
after the launch; what has been noted stays alive until then, so that no address has two meanings.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Products"]

_ALIGNED = 8
"""Words: a thread reads so many at once."""


@dataclass(slots=True)
class _Product:
    row: list[int]
    place: tuple[int, int]
    """Word of the row, and bit within it."""
    start: int
    values: int
    left_at: int | None = None


class Products:
    """Of the instructions noted since the last launch; values are of 16 bits."""

    def __init__(self) -> None:
        self.words = 0
        """How many have to be left room for."""
        self._made: dict[tuple[int, int, int], _Product] = {}

    def add(self, row: list[int], place: tuple[int, int], x: Tensor | None) -> None:
        """`row` makes `x` and says at `place` where its words begin, plus one; 0 = nobody reads."""
        if x is not None:
            self._made[place[0], place[1], id(row)] = _Product(row, place, x.data_ptr(), x.numel())

    def source(self, x: Tensor | None) -> int:
        """What an instruction that reads `x` says: its address, or twice its first word plus 1."""
        if x is None:
            return 0
        at = x.data_ptr()
        for made in self._made.values():
            if made.start <= at < made.start + 2 * made.values:
                if made.left_at is None:
                    made.left_at = self.words
                    self.words += -(-made.values // _ALIGNED) * _ALIGNED
                    word, bit = made.place
                    made.row[word] |= (made.left_at + 1) << bit
                return (made.left_at + (at - made.start) // 2) << 1 | 1
        return at
