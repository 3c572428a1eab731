"""What one step runs, and what came of it: the data between scheduler, batch builder and engine."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field
from enum import StrEnum

from inferplane.request import FinishReason
from inferplane.scheduling.sequence import Sequence

__all__ = ["ScheduledSequence", "SequenceEvent", "SkipReason", "StepPlan"]


class SkipReason(StrEnum):
    """Why a request is not in a plan: one each, from this closed list; counted in metrics."""

    NO_TOKENS = "no_tokens"
    """All it may still have is in flight."""
    NO_BLOCKS = "no_blocks"
    BATCH_FULL = "batch_full"
    SHAPE = "shape"
    GRAMMAR = "grammar"
    REMOTE_KV = "remote_kv"
    HELD = "held"
    """Prefill waits for decodes or the other way round, or a session waits for input."""
    PAUSED = "paused"
    BUDGET = "budget"
    IN_FLIGHT = "in_flight"
    """Its next input needs host work on a token that is still on the device."""
    OVERTAKEN = "overtaken"
    """It did not fit and a later request went first, within the allowed number."""


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence's share of a step: positions [start, start + num_tokens).

    Entries of plain decode steps are used again, so a plan is dead once its result was applied.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """The last position yields a token."""
    is_decode: bool
    """One new position and perhaps drafts, all before it computed in earlier steps."""
    drafts: tuple[int, ...] = ()
    """How the last tokens were guessed; -1 = a placeholder that is never accepted."""
    run: int = 0
    """`Sequence.run` when it was planned: a result for an older stay is not applied to this one."""
    plain: bool = False
    """A decode step of exactly one token."""


@dataclass(slots=True)
class SequenceEvent:
    """What one step means for one sequence: new tokens, or its end, or both.

    Events with tokens are used again: read them before the next call of `update`.
    """

    sequence: Sequence
    token_ids: list[int]
    row: int = -1
    """Row of `StepBatch.sampled` (for pooling: of `embedded`) it came from; -1 = none."""
    finish: FinishReason | None = None
    stop_reason: int | None = None
    """The stop token id that ended it."""
    error: str = ""
    """Wire code when `finish` is ERROR: `model_numerical_error`, `deadline_exceeded`, …"""


@dataclass(slots=True, eq=False)
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
    """Lanes that ended since the last plan that ran, each told exactly once; a lane may be taken
    by a new sequence in the same plan, so forget first."""
    ended: list[SequenceEvent] = field(default_factory=list)
    """Requests whose deadline or queue time passed: tell their clients, whether the plan runs or
    not."""
    left_out: list[tuple[Sequence, SkipReason]] = field(default_factory=list)
    """Requests the walk looked at and did not take."""
    behind: ListLike[Sequence] = ()
    """Waiting requests the walk did not reach."""
    behind_reason: SkipReason = SkipReason.BATCH_FULL

    def __bool__(self) -> bool:
        return bool(self.scheduled)

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole step."""
        return sum(s.num_tokens for s in self.scheduled)

    @property
    def skipped(self) -> dict[str, SkipReason]:
        """Each request that is not in this plan, with its one reason; made on demand."""
        reasons = {s.request_id: reason for s, reason in self.left_out}
        reasons.update((s.request_id, self.behind_reason) for s in self.behind)
        return reasons
