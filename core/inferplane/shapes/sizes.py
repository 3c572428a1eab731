"""Ascending size ladders that the policies share, and rounding up on them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["ceil_on", "decode_sizes", "powers_of_two"]


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """low, 2 low, 4 low, … and `high` itself, ascending."""
    sizes = []
    size = low
    while size < high:
        sizes.append(size)
        size *= 2
    return (*sizes, high)


def decode_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, then steps of 8 to 128, steps of 64 beyond, and `most` itself."""
    steps = (1, 2, 4, *range(8, 129, 8), *range(192, most, 64))
    return (*(size for size in steps if size < most), most)


def ceil_on(sizes: Sequence[int], value: int) -> int | None:
    """The smallest size that is at least `value`; None beyond the last."""
    at = bisect_left(sizes, value)
    return sizes[at] if at < len(sizes) else None
