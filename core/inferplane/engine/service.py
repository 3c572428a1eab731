"""The engine process from the inside: start up, obey the front end, step, recover, leave."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from inferplane.array_messages import decoder
from inferplane.engine.info import engine_info
from inferplane.engine.messages import (
    Abort,
    Alive,
    EngineInfo,
    FromEngine,
    GetStats,
    Outputs,
    Progressed,
    Ready,
    Rejected,
    ResetPrefixCache,
    Shutdown,
    Stats,
    Submit,
    ToEngine,
)
from inferplane.engine.placement import make_executor
from inferplane.engine.reaper import reap
from inferplane.engine.recovery import CrashBudget, Recovery
from inferplane.engine.replay import Replay
from inferplane.engine.start_up import start_engine
from inferplane.engine.watchdog import Tick
from inferplane.engine.workers import WorkerExecutor
from inferplane.errors import DeviceError
from inferplane.frames import FrameSocket
from inferplane.interfaces import Executor
from inferplane.launch import LaunchPlan

__all__ = ["EngineService"]

_log = logging.getLogger(__name__)
_IDLE_S = 1.0
"""An idle engine turns this often, so that its tick stays fresh."""
_STUCK_S = 0.005
"""Requests wait and nothing can run: look again after this."""
_MOST_UNSENT_BYTES = 64 << 20
"""The engine waits for a front end that reads this much too slowly."""


class EngineService:
    """One engine, driven by one front end over a socket."""

    def __init__(
        self,
        front: FrameSocket,
        tick: Tick,
        launch: LaunchPlan,
        environment: Mapping[str, str],
        hash_root: bytes,
    ) -> None:
        self.front = front
        self.tick = tick
        self.launch = launch
        self.hash_root = hash_root
        self.executor: Executor = make_executor(launch, environment)
        self.draining = False
        self._decode = decoder(ToEngine)
        self._encode = msgspec.msgpack.Encoder().encode
        self._phase_seconds: dict[str, float] = {}
        self._phase = ("", 0.0)

    def start_up(self) -> None:
        """Load, plan, warm up; then requests may come. Raises ConfigError and DeviceError."""
        started = start_engine(self.executor, self.launch, self.progress, self.hash_root)
        self._end_phase()
        self.engine, self.launch, self.kv = started.engine, started.launch, started.kv
        self.recovery = Recovery(
            self.engine,
            self._replace_workers,
            lambda: Replay(self.executor, started.kv, started.launch, started.shapes),
            CrashBudget(),
        )
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process
        self.tick.beat()
        self._send(Ready(self._info()))

    def serve(self) -> None:
        """Until the front end shuts down or is gone (EOFError). Raises what cannot be recovered."""
        while True:
            self.tick.beat()
            self._read()
            if self.front.closed:
                raise EOFError("the front end is gone")
            if self.draining and not self.engine.busy:
                return
            self._turn()

    def progress(
        self, phase: Literal["load", "profile", "warm_up"], done: int, total: int, detail: str
    ) -> None:
        """Tell the front end how far start-up is."""
        if phase != self._phase[0]:
            self._end_phase()
            self._phase = (phase, time.monotonic())
        self._send(Progressed(phase, done, total, detail))

    def close(self) -> None:
        """Give the device back."""
        self.executor.close()

    def _turn(self) -> None:
        """One step, or a short rest when there is none to make."""
        try:
            if self.engine.busy:
                progressed = self.engine.step()
            else:
                progressed = False
                self._check_workers()
        except Exception as error:
            self._recover(error)
            progressed = True
        if self.engine.outputs:
            self._send(Outputs(tuple(self.engine.outputs)))
            self.engine.outputs.clear()
            if self.front.unsent_bytes > _MOST_UNSENT_BYTES:
                self.front.drain(_IDLE_S)
        if not progressed:
            self.front.wait(_STUCK_S if self.engine.busy else _IDLE_S)

    def _read(self) -> None:
        while (payload := self.front.take()) is not None:
            self._obey(self._decode(payload))

    def _obey(self, message: ToEngine) -> None:
        match message:
            case Submit(request):
                if self.draining:
                    text = "the server is going down"
                    self._send(Rejected(request.request_id, "draining", text))
                else:
                    self._send(self.engine.add(request))
            case Abort(request_ids, reason):
                self.engine.abort(request_ids, reason)
            case Alive(request_ids):
                if orphans := reap(self.engine, request_ids):
                    _log.warning("%d requests without a handle were ended", len(orphans))
            case GetStats(number):
                stats = msgspec.structs.replace(
                    self.engine.stats(), last_step_age_s=self.tick.age_s()
                )
                self._send(Stats(number, stats))
            case ResetPrefixCache():
                self.engine.scheduler.reset_prefix_cache()
            case Shutdown(drain):
                self.draining = True
                if not drain:
                    self.engine.abort(tuple(self.engine.scheduler.sequences))

    def _check_workers(self) -> None:
        if isinstance(self.executor, WorkerExecutor):
            self.executor.check()

    def _recover(self, error: Exception) -> None:
        """Go on with new workers; without workers of its own this process is what must go."""
        if not isinstance(self.executor, WorkerExecutor):
            if isinstance(error, DeviceError):
                raise error
            _log.error("a step failed on plugin %s", self.launch.plugin, exc_info=error)
            raise DeviceError(f"a step failed: {error!r}") from error
        self.recovery.recover(error)
        self._send(Ready(self._info()))

    def _replace_workers(self, reason: str) -> None:
        executor = self.executor
        assert isinstance(executor, WorkerExecutor)
        self.progress("load", 0, 0, f"workers restart: {reason}")
        executor.kill()
        executor.load(self.progress)
        executor.plan_kv()  # measured again, but the pool keeps its size: it held before
        executor.start(self.kv, self.progress)
        self._end_phase()

    def _end_phase(self) -> None:
        phase, since = self._phase
        if phase:
            self._phase_seconds[phase] = round(time.monotonic() - since, 3)
        self._phase = ("", 0.0)

    def _send(self, message: FromEngine) -> None:
        self.front.send(self._encode(message))

    def _info(self) -> EngineInfo:
        return engine_info(self.launch, self.kv, self.executor, self._phase_seconds)
