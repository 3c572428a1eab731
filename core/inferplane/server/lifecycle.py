"""Where the server stands between start and end: what probes say and whether requests may come."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["PHASES", "Lifecycle", "Phase", "phase_of"]

Phase: TypeAlias = Literal[
    "config", "download", "load", "compile", "warmup", "ready", "draining", "failed"
]
PHASES: tuple[Phase, ...] = ("config", "download", "load", "compile", "warmup", "ready")
"""In their order."""

_ENGINE_PHASES: dict[str, Phase] = {
    "plan": "config",
    "load": "load",
    "profile": "load",
    "warm_up": "warmup",
    "ready": "ready",
    "draining": "draining",
    "failed": "failed",
}


def phase_of(engine_phase: str) -> Phase:
    """The phase as clients know it."""
    return _ENGINE_PHASES.get(engine_phase, "load")


@dataclass(slots=True)
class Lifecycle:
    """Changed by signals and by the routes; read by everybody, on one thread."""

    drain_delay_s: float = 5.0
    shutdown_timeout_s: float = 45.0
    began: float = field(default_factory=time.monotonic)
    drain_began: float | None = None
    """When the first signal came; readiness is gone from then on."""
    accepts_until: float | None = None
    """When new requests begin to be refused."""
    running: int = 0
    """Generating requests under way."""
    ready_since: float | None = None

    def drain(self, delayed: bool) -> None:
        """Begin to end. With `delayed`, new requests are served for a while: whoever routes them
        needs time to see that this server is leaving."""
        if self.drain_began is None:
            now = time.monotonic()
            self.drain_began = now
            self.accepts_until = now + (self.drain_delay_s if delayed else 0.0)

    @property
    def draining(self) -> bool:
        """Whether a signal came."""
        return self.drain_began is not None

    @property
    def refuses(self) -> bool:
        """Whether new requests are turned away."""
        return self.accepts_until is not None and time.monotonic() >= self.accepts_until

    @property
    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        if self.accepts_until is None or not self.refuses:
            return False
        return self.running == 0 or time.monotonic() >= self.accepts_until + self.shutdown_timeout_s
