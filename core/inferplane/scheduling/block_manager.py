"""Which blocks each sequence holds: tables, prefix hits, publication, release.

Knows nothing of queues, budgets or time.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike

from inferplane.errors import ConfigError
from inferplane.interfaces import KVGroup
from inferplane.scheduling.block_pool import BlockPool
from inferplane.scheduling.block_table import (
    blocks_for,
    first_block_in_window,
    worst_case_blocks,
)
from inferplane.scheduling.cache_events import CacheEvent
from inferplane.scheduling.hits import Hit
from inferplane.scheduling.prefix_cache import CacheOptions, PrefixCache
from inferplane.scheduling.sequence import Sequence

__all__ = ["BlockManager", "CacheOptions"]

_NEVER = 1 << 62


class BlockManager:
    """All KV blocks of one engine; groups share one pool, each sequence has one table a group."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        groups: ListLike[KVGroup],
        *,
        caching: bool,
        hash_root: bytes,
        prefer_low_ids: bool = False,
        in_flight_tokens: int = 2048,
        options: CacheOptions | None = None,
    ) -> None:
        """`num_blocks` includes scratch block 0; `in_flight_tokens` = most tokens of one step.

        Raises ConfigError when there is no usable block or no group.
        """
        if num_blocks < 2 or block_size < 1 or not groups:
            raise ConfigError(
                f"KV cache of {num_blocks} blocks of {block_size} tokens in {len(groups)} groups: "
                "at least 2 blocks, 1 token and 1 group are needed"
            )
        self.block_size = block_size
        self.groups = tuple(groups)
        self.caching = caching
        self.in_flight_tokens = in_flight_tokens
        self.copied: list[tuple[int, int]] = []
        """(source, target) blocks to copy before the next step that runs."""
        self.no_hit = Hit(tuple([] for _ in groups), 0)
        """What `lookup` finds where nothing is cached; not to be changed."""
        self.cache = PrefixCache(
            num_blocks, block_size, groups, hash_root, options or CacheOptions()
        )
        self.pool = BlockPool(num_blocks, self.cache.index, prefer_low_ids, self.cache.evicted)
        self._windows = [(g, s.window) for g, s in enumerate(groups) if s.window is not None]
        self._promised = 0

    # ── what there is ──

    @property
    def num_free(self) -> int:
        """Blocks that can be handed out now, cached ones included."""
        return len(self.pool.free)

    @property
    def usable(self) -> int:
        """All blocks but scratch."""
        return self.pool.usable

    @property
    def usage(self) -> float:
        """Share of usable blocks in use."""
        return 1.0 - self.num_free / self.usable

    @property
    def has_windows(self) -> bool:
        """Whether blocks leave tables while a sequence runs."""
        return bool(self._windows)

    @property
    def num_promised(self) -> int:
        """Free blocks that running sequences were promised."""
        return self._promised

    @property
    def num_unpromised(self) -> int:
        """Free blocks that nobody was promised."""
        return len(self.pool.free) - self._promised

    def free_order(self) -> list[int]:
        """Free blocks, next to be used first."""
        return self.pool.free.order()

    def take_events(self) -> list[CacheEvent]:
        """Cache events since the last call."""
        return self.cache.take_events()

    def worst_case(self, num_tokens: int) -> int:
        """Most blocks that a sequence of so many positions holds at once."""
        return worst_case_blocks(num_tokens, self.groups, self.block_size, self.in_flight_tokens)

    # ── holding ──

    def lookup(self, sequence: Sequence) -> Hit:
        """The longest cached prefix; at least the last token is left to compute."""
        if not self.caching:
            return self.no_hit
        return self.cache.find(sequence)

    def shortage(
        self,
        sequence: Sequence,
        num_tokens: int,
        hit: Hit | None = None,
        whole_prompt: bool = False,
        reserve: int = 0,
    ) -> int:
        """Blocks missing for `allocate` with the same arguments; <= 0 = it will succeed."""
        have = len(sequence.tables[0]) if sequence.tables else 0
        base, waking, kept = sequence.computed, 0, 0
        if hit is not None and hit.tokens:
            base = hit.tokens
            have += len(hit.blocks[0])
            refs = self.pool.refs
            for blocks in hit.blocks:
                for block in blocks:
                    if block:
                        kept += 1
                        waking += not refs[block]
        more = -(-(base + num_tokens) // self.block_size) - have
        needed = more * len(self.groups) if more > 0 else 0
        if whole_prompt:
            whole = self.worst_case(len(sequence.token_ids)) - kept - sequence.owned
            if whole > needed:
                needed = whole
        if reserve - kept > needed:
            needed = reserve - kept
        others = self._promised - max(0, sequence.reserve - sequence.owned)
        return needed + waking + others - len(self.pool.free)

    def allocate(
        self,
        sequence: Sequence,
        num_tokens: int,
        hit: Hit | None = None,
        lookahead: int = 0,
        whole_prompt: bool = False,
        reserve: int = 0,
    ) -> tuple[list[int], ...] | None:
        """Cover the next `num_tokens` (+ `lookahead` drafts) positions; new block ids per group.

        None = not enough free blocks, and nothing happened but the release of blocks that left a
        window. `hit` is adopted first and moves `computed` to its end. `whole_prompt` asks for room
        for all known tokens, `reserve` for that many blocks, and keeps them promised until `free`.
        """
        if self._windows and sequence.room:
            self.release_outside_window(sequence, sequence.computed)
        end = sequence.computed + num_tokens
        if hit is None and end + lookahead <= sequence.room:
            if self.caching:
                self.cache.register(sequence, end)
            return self.no_hit.blocks
        if self.shortage(sequence, num_tokens + lookahead, hit, whole_prompt, reserve) > 0:
            return None
        if not sequence.tables:
            sequence.tables = tuple([] for _ in self.groups)
            sequence.window_start = [0] * len(self.groups)
        if not sequence.room:
            _watch(sequence, self.block_size if self.caching else _NEVER)
        if reserve:
            sequence.reserve = reserve
            self._promised += reserve
        if hit is not None:
            self._adopt(sequence, hit)
        total = blocks_for(sequence.computed + num_tokens + lookahead, self.block_size)
        count = max(0, total - len(sequence.tables[0]))
        pop = self.pool.pop
        new = tuple([[pop() for _ in range(count)] for _ in self.groups])
        for table, blocks in zip(sequence.tables, new, strict=True):
            table += blocks
        if hit is not None and hit.source and hit.source != new[0][0]:
            self.copied.append((hit.source, new[0][0]))
        self._own(sequence, count * len(self.groups))
        sequence.room = len(sequence.tables[0]) * self.block_size
        if self.caching:
            self.cache.register(sequence, sequence.computed + num_tokens)
        return new

    def grow(self, sequence: Sequence) -> bool:
        """`allocate` of one position at the end of the tables, for the usual case; False = ask
        `allocate`."""
        num_groups = len(self.groups)
        if self._windows or self._promised or len(self.pool.free) < num_groups:
            return False
        for table in sequence.tables:
            table.append(self.pool.pop())
        sequence.owned += num_groups
        sequence.room += self.block_size
        return True

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """A finite row proves the first `num_tokens` positions: publish their full blocks."""
        sequence.proven = num_tokens
        sequence.on_sand = False
        if sequence.adopted:
            for block in sequence.adopted:
                self.cache.index.pending.pop(block, None)
            sequence.adopted.clear()
        if num_tokens >= sequence.next_full:
            full = num_tokens // self.block_size
            self.cache.publish(sequence, full)
            _watch(sequence, (full + 1) * self.block_size)

    def free(self, sequence: Sequence, fence: bool = False) -> None:
        """Release everything it holds, the tail first; behind a fence if somebody outside the
        order of steps may still read it."""
        proven = sequence.proven
        whole = proven // self.block_size if sequence.computed > proven else _NEVER
        for table in sequence.tables:
            last = len(table) - 1
            self.pool.release(
                [(table[i], i < whole) for i in range(last, -1, -1) if table[i]], fence
            )
        self._own(sequence, -sequence.owned)
        self._promised -= sequence.reserve
        sequence.reserve = 0
        sequence.tables = tuple([] for _ in self.groups)
        sequence.window_start = [0] * len(self.groups)
        sequence.room = sequence.plain_limit = sequence.computed = sequence.proven = 0
        sequence.registered = sequence.published = 0
        sequence.adopted = []
        sequence.on_sand = False

    def condemn(self, sequence: Sequence) -> list[int]:
        """Its row was not finite: unpublish what it wrote or adopted unproven; returns those ids.

        Whoever adopted one of them stands on sand and must be rolled back by the caller.
        """
        pending = self.cache.index.pending
        bad = [block for block, (producer, _) in pending.items() if producer is sequence]
        bad += [block for block in sequence.adopted if block in pending and block not in bad]
        for block in bad:
            self.pool.unhash(block)
        return bad

    def reset(self) -> bool:
        """Forget every cached prefix; False, and nothing done, while any block is in use."""
        if len(self.pool.free) != self.pool.usable:
            return False
        self.pool.clear()
        self.cache.cleared()
        return True

    def replaced(self) -> None:
        """The device came back with an empty KV cache; every sequence was freed before."""
        self.pool.replaced()
        self.cache.cleared()
        self.copied.clear()

    def release_outside_window(self, sequence: Sequence, computed: int) -> None:
        """Free blocks that no token from position `computed` on reads, the later one first."""
        size = self.block_size
        whole = sequence.proven // size if sequence.computed > sequence.proven else _NEVER
        for group, window in self._windows:
            start = sequence.window_start[group]
            end = min(first_block_in_window(computed, window, size), len(sequence.tables[group]))
            if end <= start:
                continue
            table = sequence.tables[group]
            gone = [(table[i], i < whole) for i in range(end - 1, start - 1, -1) if table[i]]
            if sequence.adopted:
                self._let_go(sequence, [block for block, _ in gone])
            self.pool.release(gone, fence=True)
            table[start:end] = [0] * (end - start)
            sequence.window_start[group] = end
            self._own(sequence, -len(gone))

    # ── inside ──

    def _let_go(self, sequence: Sequence, gone: ListLike[int]) -> None:
        """Adopted blocks leave its window: others may soon fill them with something else."""
        pending = self.cache.index.pending
        sequence.on_sand |= any(block in pending for block in gone if block in sequence.adopted)
        sequence.adopted = [block for block in sequence.adopted if block not in gone]

    def _own(self, sequence: Sequence, change: int) -> None:
        """Keep the sum of promises not yet used up."""
        if sequence.reserve:
            before = max(0, sequence.reserve - sequence.owned)
            self._promised += max(0, sequence.reserve - sequence.owned - change) - before
        sequence.owned += change

    def _adopt(self, sequence: Sequence, hit: Hit) -> None:
        pending = self.cache.index.pending
        kept = 0
        for group, blocks in enumerate(hit.blocks):
            for block in blocks:
                if not block:
                    continue
                kept += 1
                self.pool.touch(block)
                if block in pending:
                    sequence.adopted.append(block)
            sequence.tables[group].extend(blocks)
            sequence.window_start[group] = next((i for i, b in enumerate(blocks) if b), len(blocks))
        self._own(sequence, kept)
        count = len(hit.blocks[0])
        sequence.registered = sequence.published = count
        if count:
            _watch(sequence, 0 if sequence.adopted else (count + 1) * self.block_size)
        sequence.computed = hit.tokens
        sequence.proven = hit.tokens


def _watch(sequence: Sequence, next_full: int) -> None:
    """Say at which proven position the next block is published."""
    sequence.next_full = next_full
    sequence.alert = min(next_full, sequence.max_len - 1)
