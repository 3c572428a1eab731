"""Main of a worker process: one rank's Executor, driven over a socket by `engine/workers.py`.

Usage: `python -m inferplane.execution.worker SOCKET_FD`. The environment the plan asks for was set
by whoever started it.
"""

from __future__ import annotations

import gc
import logging
import socket
import sys
import traceback
from collections import deque
from importlib import import_module
from typing import Literal

from inferplane.child_process import die_with_parent, ignore_terminal
from inferplane.errors import InferplaneError
from inferplane.execution import wire
from inferplane.frames import FrameSocket
from inferplane.interfaces import Executor, Pending, StepResult

__all__ = ["Worker", "main"]

_BUILD = "inferplane.execution.build"
_GOODBYE_S = 5.0
_log = logging.getLogger(__name__)


class Worker:
    """Reads commands, calls the executor, answers."""

    def __init__(self, engine: FrameSocket, executor: Executor, rank: int) -> None:
        self.engine = engine
        self.executor = executor
        self.rank = rank
        self.pending: deque[Pending[StepResult]] = deque()

    def handle(self, message: wire.ToWorker) -> wire.FromWorker | None:
        """Obey one command; None = no answer is due."""
        executor = self.executor
        match message:
            case wire.Execute(batch):
                self.pending.append(executor.execute(batch))
                return None
            case wire.Collect():
                result = self.pending.popleft().result()
                return wire.Result(result if self.rank == 0 else None)
            case wire.Load():
                executor.load(self.progress)
            case wire.PlanKV():
                return wire.Planned(executor.plan_kv())
            case wire.Start(plan):
                executor.start(plan, self.progress)
                gc.collect()
                gc.freeze()  # what start-up made lives as long as the process
            case wire.Report():
                return wire.Reported(executor.choices(), executor.stats())
            case wire.Sleep(tags, keep_copy):
                executor.sleep(tags, keep_copy)
            case wire.Wake(tags):
                executor.wake(tags)
        return wire.Done()

    def progress(
        self, phase: Literal["load", "profile", "warm_up"], done: int, total: int, detail: str
    ) -> None:
        """Pass it on."""
        self.engine.send(wire.encode(wire.Progressed(phase, done, total, detail)))

    def run(self) -> None:
        """Until told to close or the engine is gone. A failed command ends the worker."""
        decode = wire.decoder(wire.ToWorker)
        while not isinstance(message := decode(self.engine.receive()), wire.Close):
            try:
                answer = self.handle(message)
            except Exception as error:
                self.engine.send(wire.encode(_broke(error)))
                self.engine.drain(_GOODBYE_S)
                return
            if answer is not None:
                self.engine.send(wire.encode(answer))


def main(arguments: list[str]) -> int:
    """Exit code: 0 after Close or the engine's end, else that of the error."""
    die_with_parent()
    ignore_terminal()
    engine = FrameSocket(socket.socket(fileno=int(arguments[0])))
    try:
        begin = wire.decoder(wire.Begin)(engine.receive())
        build = import_module(_BUILD)  # torch, seconds: only here, after the environment is set
        executor = build.create_executor(begin.plan, begin.rank, begin.rank, begin.rendezvous)
    except EOFError:
        return 0
    except Exception as error:
        engine.send(wire.encode(_broke(error)))
        engine.drain(_GOODBYE_S)
        return 1
    try:
        Worker(engine, executor, begin.rank).run()
    except EOFError:
        return 0
    finally:
        executor.close()
    return 0


def _broke(error: Exception) -> wire.Broke:
    if not isinstance(error, InferplaneError):
        _log.error("%s", traceback.format_exc())
        return wire.Broke("", f"{type(error).__name__}: {error}")
    return wire.Broke(type(error).__name__, str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
