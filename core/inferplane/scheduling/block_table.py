"""Arithmetic between positions and blocks, for one sequence and KV group."""

from __future__ import annotations

from collections.abc import Sequence as ListLike

from inferplane.errors import CapacityError
from inferplane.interfaces import KVGroup

__all__ = [
    "blocks_for",
    "check_capacity",
    "first_block_in_window",
    "largest_length",
    "max_concurrency",
    "window_cap",
    "worst_case_blocks",
]


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // block_size)


def first_block_in_window(computed: int, window: int, block_size: int) -> int:
    """The first block that the token at position `computed` or a later one still reads."""
    return max(0, computed - window + 1) // block_size


def window_cap(window: int, in_flight_tokens: int, block_size: int) -> int:
    """Most blocks a sequence holds in a window group: the window, a step's tokens, one for both
    ends lying inside a block."""
    return blocks_for(window - 1 + in_flight_tokens, block_size) + 1


def worst_case_blocks(
    num_tokens: int, groups: ListLike[KVGroup], block_size: int, in_flight_tokens: int
) -> int:
    """Most blocks that a sequence of `num_tokens` positions holds at once, over all groups."""
    full = blocks_for(num_tokens, block_size)
    most = 0
    for group in groups:
        most += (
            full
            if group.window is None
            else min(full, window_cap(group.window, in_flight_tokens, block_size))
        )
    return most


def largest_length(
    usable: int, groups: ListLike[KVGroup], block_size: int, in_flight_tokens: int, limit: int
) -> int:
    """Longest sequence, up to `limit` tokens, whose worst case fits `usable` blocks."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if worst_case_blocks(middle, groups, block_size, in_flight_tokens) <= usable:
            low = middle
        else:
            high = middle - 1
    return low


def max_concurrency(
    usable: int, groups: ListLike[KVGroup], block_size: int, in_flight_tokens: int, length: int
) -> float:
    """How many sequences of `length` tokens the pool holds; for the start-up log."""
    return usable / worst_case_blocks(length, groups, block_size, in_flight_tokens)


def check_capacity(
    num_blocks: int,
    groups: ListLike[KVGroup],
    block_size: int,
    *,
    in_flight_tokens: int,
    max_model_len: int,
    block_bytes: int,
) -> None:
    """Refuse a pool that cannot hold one request of `max_model_len`.

    Raises CapacityError naming needed and available bytes and the largest length that fits.
    """
    usable = num_blocks - 1
    needed = worst_case_blocks(max_model_len, groups, block_size, in_flight_tokens)
    if needed <= usable:
        return
    fits = largest_length(usable, groups, block_size, in_flight_tokens, max_model_len)
    raise CapacityError(
        f"max_model_len {max_model_len} needs {needed} KV blocks ({needed * block_bytes} bytes), "
        f"the pool has {usable} ({usable * block_bytes} bytes); the largest length that fits is "
        f"{fits}: lower --max-model-len or give the KV cache more memory"
    )
