"""What one step runs, and what came of it: the data between scheduler, batch builder and engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from inferplane.request import FinishReason
from inferplane.scheduling.sequence import Sequence

__all__ = ["ScheduledSequence", "SequenceEvent", "SkipReason", "StepPlan"]


class SkipReason(StrEnum):
    """Why a request is not in a plan: one each, from this closed list; counted in metrics."""

    NO_TOKENS = "no_tokens"
    NO_BLOCKS = "no_blocks"
    BATCH_FULL = "batch_full"
    SHAPE = "shape"
    GRAMMAR = "grammar"
    HELD = "held"
    PAUSED = "paused"
    BUDGET = "budget"
    IN_FLIGHT = "in_flight"
    """Its next input needs host work on a token that is still on the device."""
    OVERTAKEN = "overtaken"


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence's share of a step: positions [start, start + num_tokens)."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """The last position yields a token."""
    is_decode: bool
    """Its prompt was done before this step."""
    drafts: tuple[int, ...] = ()
    """How the last tokens were guessed; -1 = a placeholder that is never accepted."""


@dataclass(slots=True)
class StepPlan:
    """One step. False when it schedules nothing."""

    step: int
    scheduled: list[ScheduledSequence] = field(default_factory=list)
    """Decodes first; within each part in scheduling order."""
    new: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    copied: list[tuple[int, int]] = field(default_factory=list)
    """(source, target) blocks to copy before the step, after zeroing."""
    zeroed: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    """Lanes that ended since the last plan, each told exactly once."""
    skipped: dict[str, SkipReason] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.scheduled)

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole step."""
        return sum(s.num_tokens for s in self.scheduled)


@dataclass(slots=True)
class SequenceEvent:
    """What one step means for one sequence: new tokens, or its end, or both."""

    sequence: Sequence
    token_ids: list[int]
    row: int = -1
    """Row of `StepBatch.sampled` the tokens came from; -1 = none."""
    finish: FinishReason | None = None
    stop_reason: int | None = None
    """The stop token id that ended it."""
    error: str = ""
    """Wire code when `finish` is ERROR: `model_numerical_error`, `deadline_exceeded`, …"""
