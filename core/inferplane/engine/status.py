"""Where an engine stands, as its front end sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from inferplane.errors import InferplaneError

__all__ = ["EnginePhase", "EngineStatus"]

EnginePhase: TypeAlias = Literal[
    "plan", "load", "profile", "warm_up", "ready", "draining", "failed"
]


@dataclass(slots=True)
class EngineStatus:
    """Changed by the client's tasks, read by everybody on the same thread."""

    phase: EnginePhase = "plan"
    done: int = 0
    total: int = 0
    """0 = unknown."""
    detail: str = ""
    since: float = field(default_factory=time.monotonic)
    """When the phase began, on the monotonic clock."""
    failure: InferplaneError | None = None
    exit_code: int = 0
    """What the program should exit with, once failed."""
    restarts: int = 0
    """How often the engine process was replaced."""
    tick_age_s: float = 0.0
    """Seconds since the ready engine's loop turned last, as of a second ago."""
    stalled: bool = False
    """That is too long: a step does not end, or the process is stopped."""

    def enter(self, phase: EnginePhase, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Note progress; a new phase restarts `since`."""
        if phase != self.phase:
            self.phase, self.since = phase, time.monotonic()
        self.done, self.total, self.detail = done, total, detail

    def fail(self, failure: InferplaneError) -> None:
        """For good."""
        self.enter("failed", detail=str(failure))
        self.failure, self.exit_code = failure, failure.exit_code
