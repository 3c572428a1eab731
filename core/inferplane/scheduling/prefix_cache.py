"""Finding cached prefixes, and publishing what sequences compute; knows nothing of free lists."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

from inferplane.errors import ConfigError
from inferplane.interfaces import KVGroup
from inferplane.scheduling.cache_events import (
    AllCleared,
    BlocksRemoved,
    BlocksStored,
    CacheEvent,
    EventLog,
)
from inferplane.scheduling.digest_chain import Digest, DigestChain, sha256
from inferplane.scheduling.hits import Hit, longest_hit, window_needs
from inferplane.scheduling.partial_hits import PartialIndex
from inferplane.scheduling.prefix_index import PrefixIndex
from inferplane.scheduling.sequence import Sequence

__all__ = ["CacheOptions", "PrefixCache"]


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """How the prefix cache behaves; the defaults are those of a server."""

    adopt_pending: bool = True
    """Later plans may use blocks that a step in flight still fills."""
    adopt_in_step: bool = False
    """The same plan may, too: the back-end writes all K/V of a step before it reads any."""
    drop_last_hit: bool = False
    """A draft head needs the hidden state before the first new token."""
    event_limit: int = 0
    """Most cache events kept for a listener; 0 = none are made."""
    match_unit: int = 0
    """Hits may end inside a block at multiples of it, whose beginning is then copied; 0 = never."""
    paranoid: bool = False
    """Check the content behind each digest; for tests, it remembers every content."""
    digest: Digest = sha256


class PrefixCache:
    """Digest chains of sequences on one side, blocks that hold their content on the other."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        groups: ListLike[KVGroup],
        hash_root: bytes,
        options: CacheOptions,
    ) -> None:
        """Raises ConfigError when `match_unit` does not suit block size or groups."""
        self.index = PrefixIndex(num_blocks, options.adopt_pending, options.adopt_in_step)
        self.step = 0
        """The step being planned."""
        self._block_size = block_size
        self._groups = groups
        self._needs = window_needs(groups, block_size)
        self._drop_last_hit = options.drop_last_hit
        self._suffixes = [group.to_bytes(4, "little") for group in range(len(groups))]
        self._chain = DigestChain(hash_root, block_size, options.digest, options.paranoid)
        self._parts = self._make_parts(options.match_unit)
        self._events = EventLog(options.event_limit) if options.event_limit else None

    def find(self, sequence: Sequence) -> Hit:
        """The longest cached prefix; at least the last token is left to compute."""
        size, num_groups, needs = self._block_size, len(self._groups), self._needs
        limit = (len(sequence.token_ids) - 1) // size
        digests = self._chain.extend(sequence, limit)
        contents = sequence.contents
        find, step, adopts, suffixes = self.index.find, self.step, sequence.adopts, self._suffixes

        def find_block(group: int, i: int) -> int:
            content = contents[i] if contents else -1
            return find(digests[i] + suffixes[group], step, adopts, content)

        hit = longest_hit(find_block, num_groups, needs, limit, size)
        if self._drop_last_hit and hit.tokens:
            hit = longest_hit(find_block, num_groups, needs, hit.tokens // size - 1, size)
        if self._parts is None:
            return hit
        most = len(sequence.token_ids) - 1 - hit.tokens
        source, extra = self._parts.find(sequence, len(hit.blocks[0]), most)
        return Hit(hit.blocks, hit.tokens + extra, source)

    def register(self, sequence: Sequence, num_tokens: int) -> None:
        """Mark blocks pending that the planned positions fill with known tokens."""
        full = min(num_tokens, len(sequence.token_ids)) // self._block_size
        first = sequence.registered
        if full <= first:
            return
        digests = self._chain.extend(sequence, full)
        contents, cache = sequence.contents, self.index
        for table, suffix in zip(sequence.tables, self._suffixes, strict=True):
            for index in range(first, full):
                block = table[index]
                if block:
                    cache.add(block, digests[index] + suffix, contents[index] if contents else -1)
                    cache.pending[block] = (sequence, self.step)
        sequence.registered = full

    def publish(self, sequence: Sequence, full: int) -> None:
        """Its first `full` blocks are proven: let everybody find them."""
        first = sequence.published
        if len(sequence.digests) < full:
            self._chain.extend(sequence, full)
        for index in range(first, full):
            self._prove(sequence, index)
            if self._parts is not None:
                self._parts.add(sequence, index, sequence.tables[0][index])
        sequence.published = full
        if full > sequence.registered:
            sequence.registered = full
        if self._events and full > first:
            self._announce(self._events, sequence, first, full)

    def evicted(self, key: bytes) -> None:
        """The last block with this content is gone."""
        if self._events:
            self._events.add(BlocksRemoved((key[:-4],), int.from_bytes(key[-4:], "little")))

    def cleared(self) -> None:
        """Everything was forgotten."""
        if self._parts is not None:
            self._parts.clear()
        if self._events:
            self._events.add(AllCleared())

    def take_events(self) -> list[CacheEvent]:
        """Events since the last call."""
        return self._events.take() if self._events else []

    def _make_parts(self, unit: int) -> PartialIndex | None:
        if not unit:
            return None
        if self._block_size % unit or len(self._groups) > 1 or self._groups[0].window is not None:
            raise ConfigError(
                f"match_unit {unit} needs a single KV group without window and a block size "
                f"({self._block_size}) that is a multiple of it"
            )
        return PartialIndex(unit, self._block_size, self._chain, self.index)

    def _prove(self, sequence: Sequence, index: int) -> None:
        """Let everybody find every group's block `index`."""
        digest, cache, suffixes = sequence.digests[index], self.index, self._suffixes
        for group, table in enumerate(sequence.tables):
            block = table[index]
            if not block:
                continue
            if cache.keys[block] is None:
                content = sequence.contents[index] if sequence.contents else -1
                cache.add(block, digest + suffixes[group], content)
            else:
                cache.pending.pop(block, None)

    def _announce(self, events: EventLog, sequence: Sequence, first: int, full: int) -> None:
        size = self._block_size
        for group in range(len(self._groups)):
            events.add(
                BlocksStored(
                    digests=tuple(sequence.digests[first:full]),
                    parent=sequence.digests[first - 1] if first else None,
                    token_ids=tuple(sequence.token_ids[first * size : full * size]),
                    block_size=size,
                    group=group,
                    adapter=sequence.adapter,
                )
            )
