"""What may happen to a scheduler, as data: a run is a list of these, and can be run again.

Nobody changes them; they are not frozen because a frozen one takes three times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from inferplane.request import FinishReason
from inferplane.scheduling.sequence import SequenceState
from inferplane.scheduling.state import PauseMode

__all__ = [
    "Action",
    "Add",
    "Answer",
    "AnswerTwice",
    "Finish",
    "Hold",
    "Pause",
    "ReadyAll",
    "ReplaceWorker",
    "Reset",
    "Step",
    "Tick",
]


@dataclass(slots=True)
class Add:
    """A request arrives; its prompt is a shared beginning and an own rest."""

    name: str
    document: int
    shared: int
    own: int
    seed: int
    max_tokens: int
    priority: int = 0
    tenant: int = 0
    deadline_s: float | None = None
    pooling: bool = False
    penalised: bool = False
    prompt_logprobs: bool = False

    def again(self, name: str) -> Add:
        """Somebody else asks for the same (`dataclasses.replace` takes six times as long)."""
        return Add(
            name,
            self.document,
            self.shared,
            self.own,
            self.seed,
            self.max_tokens,
            self.priority,
            self.tenant,
            self.deadline_s,
            self.pooling,
            self.penalised,
            self.prompt_logprobs,
        )


@dataclass(slots=True)
class Step:
    """Plan a step and hand it to the device, which may fail rows or an allocation."""

    failed_rows: tuple[int, ...] = ()
    silent_rows: tuple[int, ...] = ()
    failed_allocation: int = 0
    """The how-manieth allocation from now on is refused; 0 = none."""


@dataclass(slots=True)
class Answer:
    """Apply the oldest result."""


@dataclass(slots=True)
class AnswerTwice:
    """The last result arrives again."""


@dataclass(slots=True)
class Finish:
    """Requests end from outside; numbers choose among those that live."""

    numbers: tuple[int, ...]
    reason: FinishReason = FinishReason.ABORT
    error: str = ""


@dataclass(slots=True)
class Hold:
    """One waiting request is set aside."""

    number: int
    state: SequenceState


@dataclass(slots=True)
class ReadyAll:
    """All that were set aside are ready."""


@dataclass(slots=True)
class Pause:
    """Pause, or go on with None."""

    mode: PauseMode | None


@dataclass(slots=True)
class Reset:
    """Reset the prefix cache."""

    running: bool


@dataclass(slots=True)
class ReplaceWorker:
    """The worker died and a new one took its place."""


@dataclass(slots=True)
class Tick:
    """Time passes, sometimes backwards."""

    seconds: float


Action: TypeAlias = (
    Add
    | Step
    | Answer
    | AnswerTwice
    | Finish
    | Hold
    | ReadyAll
    | Pause
    | Reset
    | ReplaceWorker
    | Tick
)
