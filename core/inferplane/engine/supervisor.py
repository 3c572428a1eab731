"""Keeps an engine process running: plans, starts it, watches it, replaces it, gives up in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future

from inferplane.config import current_environment
from inferplane.engine.child import EngineChild
from inferplane.engine.messages import EngineInfo, Failed, FromEngine, Progressed, Ready, Shutdown
from inferplane.engine.recovery import CrashBudget
from inferplane.engine.status import EngineStatus
from inferplane.engine.watchdog import Patience, WakingTime, is_stopped
from inferplane.errors import (
    CapacityError,
    ConfigError,
    DeviceUnavailableError,
    EngineError,
    InferplaneError,
)
from inferplane.launch import LaunchPlan

__all__ = ["Supervisor"]

_ERRORS: dict[int, type[InferplaneError]] = {
    error.exit_code: error for error in (ConfigError, DeviceUnavailableError, CapacityError)
}
_WATCH_S = 1.0
_BREAK_S = 5.0
"""A watch that comes so late was stopped itself, not slow."""
_FAREWELL_S = 5.0


class Supervisor:
    """One engine process after another; `status`, `info` and `plan` say where it stands."""

    def __init__(
        self,
        planning: Future[LaunchPlan],
        receive: Callable[[FromEngine], None],
        lost: Callable[[str, str], None],
        patience: Patience,
    ) -> None:
        """`receive` gets what is meant for requests; `lost` hears (code, message) when an engine
        process ended and took its requests with it.
        """
        self.status = EngineStatus()
        self.info: EngineInfo | None = None
        self.plan: LaunchPlan | None = None
        self.settled = asyncio.Event()
        """Set while it is ready, failed or closed."""
        self.closing = False
        self.patience = patience
        self.child: EngineChild | None = None
        self._planning = planning
        self._receive = receive
        self._lost = lost
        self._budget = CrashBudget()
        self._failed: Failed | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until closed or given up."""
        try:
            self.plan = await asyncio.wrap_future(self._planning)
            while not self.closing and self._goes_on(await self._run_once(self.plan)):
                pass
        except InferplaneError as error:
            self._give_up(error)
        except Exception as error:
            self._give_up(InferplaneError(f"{type(error).__name__}: {error}"))
        finally:
            self._ended.set()

    async def watch(self, tell_alive: Callable[[], None]) -> None:
        """Once a second: see whether a ready engine turns, and call `tell_alive`."""
        status = self.status
        awake = WakingTime(_BREAK_S, time.monotonic())
        while True:
            await asyncio.sleep(_WATCH_S)
            if self.child is None or status.phase not in ("ready", "draining"):
                status.tick_age_s, status.stalled = 0.0, False
                continue
            age = status.tick_age_s = awake.of(self.child.tick_age_s, time.monotonic())
            status.stalled = age > self.patience.stalled_s
            stopped = status.stalled and is_stopped(self.child.pid)
            if stopped or age > self.patience.hopeless_s:
                self.child.kill()
            tell_alive()

    async def close(self, drain: bool, timeout_s: float) -> None:
        """End the engine: let it finish what runs, up to `timeout_s`, or at once."""
        self.closing = True
        was_ready = self.info is not None
        if self.status.phase != "failed":
            self.status.enter("draining")
        self.settled.set()
        if self.child is not None and was_ready:
            self.child.send(Shutdown(drain))
            limit = timeout_s if drain else min(timeout_s, _FAREWELL_S)
            ended = asyncio.ensure_future(self._ended.wait())
            await asyncio.wait((ended,), timeout=limit)
            ended.cancel()
        if self.child is not None:
            self.child.kill()
        if not self._planning.done():
            return  # the planner child ends with this process
        await self._ended.wait()

    async def _run_once(self, plan: LaunchPlan) -> int:
        self._failed = self.info = None
        child = EngineChild(self._take)
        self.child = child
        try:
            await child.start(plan, current_environment())
            return await child.wait()
        finally:
            self.child = None
            child.kill()
            child.close()

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Progressed):
            if not self.closing:
                self.settled.clear()
                self.status.enter(message.phase, message.done, message.total, message.detail)
        elif isinstance(message, Ready):
            self.info = message.info
            self.status.enter("draining" if self.closing else "ready")
            self.settled.set()
        elif isinstance(message, Failed):
            self._failed = message
        else:
            self._receive(message)

    def _goes_on(self, code: int) -> bool:
        """An engine ended that nobody told to: whether to start another."""
        if self.closing:
            return False
        error = self._explain(code)
        workers = self.plan is not None and self.plan.topology.placement == "worker"
        if self.info is None or (workers and self._failed is not None):
            self._give_up(error)  # it never worked, or used up its own budget
            return False
        if not self._budget.spend(time.monotonic()):
            most, window = self._budget.most, self._budget.window_s
            text = f"the engine died {most} times within {window:g} s; the last time: {error}"
            self._give_up(EngineError("engine_dead", text))
            return False
        self.settled.clear()
        self.status.restarts += 1
        self.status.enter("load", detail=f"the engine restarts: {error}")
        self._lost("engine_restarting", str(error))
        return True

    def _explain(self, code: int) -> InferplaneError:
        if self._failed is not None:
            kind = _ERRORS.get(self._failed.exit_code)
            if kind is not None:
                return kind(self._failed.message)
            return EngineError("engine_dead", self._failed.message)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return EngineError("engine_dead", f"the engine process died: {how}")

    def _give_up(self, error: InferplaneError) -> None:
        self.status.fail(error)
        self.settled.set()
        self._lost("engine_dead", str(error))
