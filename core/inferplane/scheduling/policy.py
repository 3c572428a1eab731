"""In which order requests wait, and who gives way: one small function each."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass

from inferplane.errors import UnknownNameError
from inferplane.scheduling.sequence import Sequence

__all__ = ["POLICIES", "Policy", "find_policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Smaller keys come first."""

    rank: Callable[[Sequence], tuple[float, ...]]
    """Who deserves the device most; the first of the running ones is never a victim."""
    queue_key: Callable[[Sequence, int], tuple[float, ...]]
    """Place in the queue; the number is 0 for a new request, else counts preemptions."""
    victim: Callable[[ListLike[Sequence]], Sequence]
    """Who gives way, of a list in admission order."""


def _arrival(sequence: Sequence) -> tuple[float, ...]:
    return (sequence.order,)


def _arrival_queue(sequence: Sequence, preemption: int) -> tuple[float, ...]:
    """Preempted ones return to the head, the last one first."""
    return (0, -preemption) if preemption else (1, sequence.order)


def _last(running: ListLike[Sequence]) -> Sequence:
    return running[-1]


def _priority(sequence: Sequence) -> tuple[float, ...]:
    return (sequence.request.priority, sequence.arrival_s, sequence.order)


def _priority_queue(sequence: Sequence, preemption: int) -> tuple[float, ...]:
    return _priority(sequence)


def _least(running: ListLike[Sequence]) -> Sequence:
    return max(running, key=_priority)


POLICIES = {
    "fcfs": Policy(_arrival, _arrival_queue, _last),
    "priority": Policy(_priority, _priority_queue, _least),
}


def find_policy(name: str) -> Policy:
    """The policy of that name. Raises UnknownNameError listing the known ones."""
    if name not in POLICIES:
        raise UnknownNameError(f"no scheduling policy {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name]
