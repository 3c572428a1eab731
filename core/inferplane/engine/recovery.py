"""The failure ladder above a row: replace the workers, find the request at fault, go on.

Requests lose nothing: they are computed again from prompt plus emitted tokens, and draw the same
tokens, since randomness depends on seed and position alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from inferplane.engine.engine import Engine
from inferplane.engine.replay import Replay
from inferplane.errors import DeviceError, EngineError
from inferplane.request import FinishReason

__all__ = ["CrashBudget", "Recovery"]

_log = logging.getLogger(__name__)


class CrashBudget:
    """At most `most` crashes within `window_s` seconds."""

    def __init__(self, most: int = 5, window_s: float = 600.0) -> None:
        self.most = most
        self.window_s = window_s
        self._times: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Count a crash; False when that was one too many."""
        while self._times and now - self._times[0] > self.window_s:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) < self.most


class Recovery:
    """Knows how to go on after a step that raised."""

    def __init__(
        self,
        engine: Engine,
        restart: Callable[[str], None],
        make_replay: Callable[[], Replay],
        budget: CrashBudget,
    ) -> None:
        """`restart` replaces the workers, given the reason; DeviceError when they died at once."""
        self.engine = engine
        self.restart = restart
        self.make_replay = make_replay
        self.budget = budget
        self.epoch = 0
        """How often the workers were replaced."""

    def recover(self, error: Exception) -> None:
        """Return with the engine ready to step. Raises EngineError when the budget is spent.

        Every request of the steps that were out is run alone; one that kills the workers again
        ends with `engine_poisoned_request`.
        """
        engine = self.engine
        suspects = engine.suspects()
        self._replace(error)
        replay = self.make_replay()
        for sequence in suspects:
            try:
                replay.run(sequence, engine.clock())
            except Exception as again:
                _log.error("request %s fails alone too: %s", sequence.request_id, again)
                self._replace(again)
                replay = self.make_replay()
                code = "engine_poisoned_request"
                engine.abort((sequence.request_id,), FinishReason.ERROR, code)
        engine.builder.release(replay.lanes)
        engine.blocks.pool.distrust(replay.dirty_blocks)

    def _replace(self, error: Exception) -> None:
        """New workers; those that die while they start are replaced as well, within the budget."""
        dead: Exception | None = error
        while dead is not None:
            if not self.budget.spend(self.engine.clock()):
                raise EngineError(
                    "engine_dead",
                    f"{self.budget.most} crashes within {self.budget.window_s:g} s; the last: "
                    f"{dead}",
                )
            _log.error("the workers are replaced: %s", dead)
            dead = self._restarted(dead)
        self.epoch += 1
        self.engine.worker_replaced()

    def _restarted(self, error: Exception) -> DeviceError | None:
        """None once new workers run, else why they died at once."""
        try:
            self.restart(str(error))
        except DeviceError as again:
            return again
        return None
