"""How many KV blocks fit; knows nothing of attention nor of the device but its memory report.

Groups share the pool: a block serves one group at a time, so a page holds one block of every layer
of the largest group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inferplane.errors import CapacityError
from inferplane.interfaces import EngineConfig, KVGroup, KVPlan, KVStore, MemoryReport

__all__ = ["KVDemand", "page_bytes", "plan_blocks"]

_USEFUL_CONTEXTS = 2
"""Blocks beyond this many times all lanes at full length cost bookkeeping and serve nobody."""


@dataclass(frozen=True, slots=True)
class KVDemand:
    """What sequences of one model ask of the pool."""

    groups: tuple[KVGroup, ...]
    block_size: int
    max_step_tokens: int
    """Tokens in flight that a window group keeps beyond its window."""

    def blocks(self, num_tokens: int) -> int:
        """The most blocks a sequence of `num_tokens` holds at once, over all groups."""
        return sum(self._blocks(group, num_tokens) for group in self.groups)

    def longest(self, num_blocks: int, most: int) -> int:
        """The longest sequence up to `most` tokens that `num_blocks` can hold; 0 = none."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.blocks(middle) <= num_blocks else (low, middle - 1)
        return low

    def _blocks(self, group: KVGroup, num_tokens: int) -> int:
        blocks = -(-num_tokens // self.block_size)
        if group.window is None:
            return blocks
        held = group.window - 1 + self.max_step_tokens
        return min(blocks, -(-held // self.block_size) + 1)


def page_bytes(groups: Sequence[KVGroup], store: KVStore, block_size: int) -> int:
    """Bytes of one block over the layers of the largest group."""
    return max(sum(store.bytes_per_block(x, block_size) for x in g.layers) for g in groups)


def plan_blocks(
    demand: KVDemand,
    page: int,
    memory: MemoryReport,
    config: EngineConfig,
    may_shrink: bool = False,
) -> KVPlan:
    """Cut what `memory_fraction` leaves of the device into pages.

    Memory that the device cannot tell (0) is taken to be enough for every lane at full length, as
    it is for a model that keeps nothing (a page of 0 bytes).
    Raises CapacityError naming bytes needed and available, and the longest context that would fit,
    when not one sequence of `max_model_len` does; with `may_shrink` the engine shortens the context
    instead, and only a pool that holds nothing is an error.
    """
    one = demand.blocks(config.max_model_len)
    all_lanes = config.max_num_seqs * one
    if memory.total and page:
        used = memory.total - memory.free
        available = int(config.memory_fraction * memory.total) - used - memory.reserved
        num_blocks = min(max(available, 0) // page, _USEFUL_CONTEXTS * all_lanes + 1)
    else:
        available, num_blocks = 0, all_lanes + 1
    if num_blocks - 1 < one:  # block 0 is scratch
        fits = demand.longest(max(num_blocks - 1, 0), config.max_model_len)
        if fits and may_shrink:
            return KVPlan(num_blocks, demand.block_size, demand.groups)
        remedy = f"--max-model-len {fits} fits" if fits else "not even one block fits"
        raise CapacityError(
            f"the KV cache of one request of {config.max_model_len} tokens needs "
            f"{(one + 1) * page} bytes, {max(available, 0)} are available: {remedy}; more memory "
            "does too (raise memory_fraction or the device's own memory setting)"
        )
    return KVPlan(num_blocks, demand.block_size, demand.groups)
