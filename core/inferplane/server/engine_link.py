"""What the server asks of an engine; `inferplane.engine.client.EngineClient` is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from inferplane.engine.messages import EngineInfo, EngineStats, SequenceOutput
from inferplane.launch import LaunchPlan
from inferplane.sampling_params import SamplingParams

__all__ = ["EngineLink", "EngineStanding", "OutputStream"]


class EngineStanding(Protocol):
    """Where the engine stands."""

    @property
    def phase(self) -> str:
        """plan, load, profile, warm_up, ready, draining or failed."""
        ...

    @property
    def done(self) -> int:
        """Steps of the phase that are done."""
        ...

    @property
    def total(self) -> int:
        """Steps of the phase; 0 = unknown."""
        ...

    @property
    def detail(self) -> str:
        """In words."""
        ...

    @property
    def since(self) -> float:
        """When the phase began, on the monotonic clock."""
        ...

    @property
    def failure(self) -> BaseException | str | None:
        """Why it failed."""
        ...

    @property
    def exit_code(self) -> int:
        """Of the process, when it failed."""
        ...


class OutputStream(Protocol):
    """The outputs of one submitted prompt."""

    def __aiter__(self) -> AsyncIterator[tuple[int, SequenceOutput]]:
        """(which of n, its next output)."""
        ...

    def finish(self, index: int) -> None:
        """A stop string was found: end this one."""
        ...

    def abort(self) -> None:
        """End all; idempotent."""
        ...


class EngineLink(Protocol):
    """The engine, seen from the event loop."""

    @property
    def status(self) -> EngineStanding:
        """Where it stands."""
        ...

    @property
    def info(self) -> EngineInfo | None:
        """What it is, once it is ready."""
        ...

    @property
    def plan(self) -> LaunchPlan | None:
        """What was decided, once it was."""
        ...

    async def start(self) -> None:
        """Begin to read in the running loop."""
        ...

    async def wait_ready(self, timeout_s: float | None = None) -> EngineInfo:
        """Raises EngineError or ConfigError."""
        ...

    async def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str = "",
        eos_ids: Sequence[int] = (),
        priority: int = 0,
        cache_domain: bytes = b"",
        deadline_s: float | None = None,
        pooling: bool = False,
    ) -> OutputStream:
        """Waits for admission. Raises RequestError or EngineError."""
        ...

    async def stats(self) -> EngineStats:
        """Gauges and counters."""
        ...

    async def close(self, drain: bool = False, timeout_s: float = 45.0) -> None:
        """End it."""
        ...
