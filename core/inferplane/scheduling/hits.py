"""How much of a sequence the prefix cache holds: one length that is valid for every KV group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from typing import TypeAlias

from inferplane.interfaces import KVGroup
from inferplane.scheduling.block_table import blocks_for

__all__ = ["Find", "Hit", "longest_hit", "window_needs"]

Find: TypeAlias = Callable[[int, int], int]
"""(group, block index) -> cached block, 0 = none."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Cached blocks, one list a group, all equally long; 0 where a window has moved on."""

    blocks: tuple[list[int], ...]
    tokens: int
    source: int = 0
    """Block whose first tokens continue the hit: to be copied, never shared; 0 = none."""


def window_needs(groups: ListLike[KVGroup], block_size: int) -> dict[int, int]:
    """Group -> blocks in a row that its next token reads, of those with a window."""
    return {
        group: blocks_for(spec.window - 1, block_size)
        for group, spec in enumerate(groups)
        if spec.window is not None
    }


def longest_hit(
    find: Find, num_groups: int, needs: Mapping[int, int], limit: int, block_size: int
) -> Hit:
    """The longest common hit of at most `limit` blocks.

    Full attention scans left to right up to the first miss; any shorter hit is then valid too. A
    sliding window needs only the blocks its next token reads, so it scans right to left for that
    many in a row (`window_needs`); as each window may shorten what the others found, they repeat
    until none does.
    """
    length = limit
    found: list[list[int]] = [[] for _ in range(num_groups)]
    for group in range(num_groups):
        if group not in needs:
            found[group] = _left_to_right(find, group, length)
            length = len(found[group])
    if not needs or not length:
        return Hit(tuple([blocks[:length] for blocks in found]), length * block_size)
    before = -1
    while length != before:
        before = length
        for group, need in needs.items():
            length = _right_to_left(find, group, length, need)
    for group, need in needs.items():
        first = max(0, length - need)
        found[group] = [0] * first + [find(group, index) for index in range(first, length)]
    return Hit(tuple(blocks[:length] for blocks in found), length * block_size)


def _left_to_right(find: Find, group: int, limit: int) -> list[int]:
    blocks: list[int] = []
    for index in range(limit):
        block = find(group, index)
        if not block:
            break
        blocks.append(block)
    return blocks


def _right_to_left(find: Find, group: int, limit: int, need: int) -> int:
    in_a_row = 0
    for index in range(limit - 1, -1, -1):
        if in_a_row == need:
            return index + 1 + need
        in_a_row = in_a_row + 1 if find(group, index) else 0
    return in_a_row
