"""What the prefix cache tells the outside: which blocks can be found, and which no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["AllCleared", "BlocksRemoved", "BlocksStored", "CacheEvent", "EventLog"]


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Consecutive full blocks of one chain became matchable in one group."""

    digests: tuple[bytes, ...]
    parent: bytes | None
    """Digest of the block before the first one; None = the first starts the prompt."""
    token_ids: tuple[int, ...]
    block_size: int
    group: int = 0
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """The last copy of these digests is gone from the group."""

    digests: tuple[bytes, ...]
    group: int = 0


@dataclass(frozen=True, slots=True)
class AllCleared:
    """Nothing told before can be found any more."""


CacheEvent: TypeAlias = BlocksStored | BlocksRemoved | AllCleared


class EventLog:
    """At most `limit` events; when nobody takes them, one AllCleared replaces them all.

    A listener that was too slow so forgets everything, which is wrong only in being incomplete.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: list[CacheEvent] = []
        self.overflows = 0

    def add(self, event: CacheEvent) -> None:
        """Append one event."""
        if len(self._events) >= self._limit:
            self.overflows += 1
            self._events = [AllCleared()]
        self._events.append(event)

    def take(self) -> list[CacheEvent]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events
