"""Shrinks a failing run: the fewest actions after which the same thing goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inferplane.scheduling.scheduler import Scheduler
from inferplane.testing.simulation.actions import Action
from inferplane.testing.simulation.knobs import Knobs
from inferplane.testing.simulation.runner import replay
from inferplane.testing.simulation.violation import Violation

__all__ = ["minimise"]


def minimise(
    knobs: Knobs,
    actions: Sequence[Action],
    make_scheduler: Callable[..., Scheduler] = Scheduler,
) -> list[Action]:
    """Delta debugging (Zeller 1999): drop ever smaller parts as long as the failure stays.

    Raises ValueError when the run does not fail.
    """
    wanted = _kind(knobs, actions, make_scheduler)
    if wanted is None:
        raise ValueError("this run does not fail: there is nothing to shrink")
    left: list[Action] = []
    shorter = list(actions)
    while len(shorter) != len(left):
        left = shorter
        shorter = _pass(left, lambda run: _kind(knobs, run, make_scheduler) == wanted)
    return left


def _pass(actions: list[Action], fails: Callable[[list[Action]], bool]) -> list[Action]:
    """Drop parts of every size, halving it."""
    left, size = actions, len(actions) // 2
    while size:
        start = 0
        while start < len(left):
            shorter = left[:start] + left[start + size :]
            if fails(shorter):
                left = shorter
            else:
                start += size
        size //= 2
    return left


def _kind(
    knobs: Knobs, actions: Sequence[Action], make_scheduler: Callable[..., Scheduler]
) -> str | None:
    failure = replay(knobs, actions, make_scheduler).failure
    if failure is None:
        return None
    number = failure.invariant if isinstance(failure, Violation) else 0
    return f"{type(failure).__name__} {number}"
