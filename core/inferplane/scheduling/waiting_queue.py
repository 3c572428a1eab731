"""Requests that are not running, sorted by their policy's key."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from inferplane.scheduling.sequence import Sequence

__all__ = ["WaitingQueue"]


def _key(sequence: Sequence) -> tuple[float, ...]:
    return sequence.queue_key


class WaitingQueue:
    """A sorted list: iteration is the order of admission; keys are distinct."""

    def __init__(self) -> None:
        self._items: list[Sequence] = []
        self.num_tokens = 0
        """Tokens of all requests in it."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._items)

    def after(self, index: int) -> list[Sequence]:
        """Those from `index` on."""
        return self._items[index:]

    def add(self, sequence: Sequence) -> None:
        """Put it where its `queue_key` says."""
        insort(self._items, sequence, key=_key)
        self.num_tokens += len(sequence.token_ids)

    def remove(self, sequence: Sequence) -> None:
        """Take it out; it must be in the queue with the key it was added with."""
        index = bisect_left(self._items, sequence.queue_key, key=_key)
        assert self._items[index] is sequence
        del self._items[index]
        self.num_tokens -= len(sequence.token_ids)
