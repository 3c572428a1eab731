"""An Executor that forwards to one process per rank and notices when one of them dies."""

from __future__ import annotations

import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from inferplane import errors
from inferplane.child_process import socket_pair
from inferplane.engine.watchdog import Patience, is_stopped
from inferplane.errors import ConfigError, DeviceError
from inferplane.execution import wire
from inferplane.frames import FrameSocket
from inferplane.interfaces import (
    Choice,
    Executor,
    ExecutorStats,
    KVPlan,
    Progress,
    StepBatch,
    StepResult,
    Tag,
)
from inferplane.launch import LaunchPlan

__all__ = ["WorkerExecutor", "WorkerPending"]

AnswerT = TypeVar("AnswerT", bound=wire.FromWorker)
_CLOSE_S = 5.0
"""How long a worker may take to give its device back before it is killed."""


@dataclass(slots=True)
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    socket: FrameSocket


class WorkerExecutor(Executor):
    """One worker process a rank. Every method raises DeviceError when a worker died or stalls."""

    def __init__(
        self, plan: LaunchPlan, environment: Mapping[str, str], patience: Patience
    ) -> None:
        self.plan = plan
        self.environment = environment
        self.patience = patience
        self._workers: list[_Worker] = []
        self._folder = ""
        self._decode = wire.decoder(wire.FromWorker)
        self._stats = ExecutorStats()
        self._choices: tuple[Choice, ...] = ()

    def load(self, progress: Progress) -> None:
        """Start the processes and load the weights on each."""
        self._folder = tempfile.mkdtemp(prefix="inferplane-")  # mode 0700
        for rank in range(self.plan.topology.processes):
            self._workers.append(self._spawn(rank))
        self._tell(wire.Load())
        self._answers(wire.Done, progress)

    def plan_kv(self) -> KVPlan:
        """The least over ranks."""
        self._tell(wire.PlanKV())
        plans = [answer.plan for answer in self._answers(wire.Planned)]
        return min(plans, key=lambda plan: plan.num_blocks)

    def start(self, plan: KVPlan, progress: Progress) -> None:
        """Warm up every rank; there is no time limit, only the workers' lives are watched."""
        self._tell(wire.Start(plan))
        self._answers(wire.Done, progress)
        self._report()

    def execute(self, batch: StepBatch) -> WorkerPending:
        """Send the batch to all ranks."""
        self._tell(wire.Execute(batch))
        return WorkerPending(self)

    def collect(self) -> StepResult:
        """The oldest step's result, from rank 0; all ranks have then finished it."""
        self._tell(wire.Collect())
        first, *_ = self._answers(wire.Result, patience=self.patience)
        if first.result is None:
            raise DeviceError("rank 0 answered a step without its result")
        return first.result

    def check(self) -> None:
        """Raise DeviceError when a worker is gone; for times without steps."""
        for worker in self._workers:
            if worker.process.poll() is not None:
                self._died(worker)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes, by rank."""
        return tuple(worker.process.pid for worker in self._workers)

    def choices(self) -> tuple[Choice, ...]:
        """As rank 0 said at start."""
        return self._choices

    def stats(self) -> ExecutorStats:
        """Counters of rank 0, asked between steps."""
        self._report()
        return self._stats

    def sleep(self, tags: tuple[Tag, ...], keep_copy: bool) -> None:
        """On every rank."""
        self._tell(wire.Sleep(tags, keep_copy))
        self._answers(wire.Done)

    def wake(self, tags: tuple[Tag, ...]) -> None:
        """On every rank."""
        self._tell(wire.Wake(tags))
        self._answers(wire.Done)

    def close(self) -> None:
        """End the workers: asked first, killed when they do not listen."""
        for worker in self._workers:
            worker.socket.send(wire.encode(wire.Close()))
        deadline = time.monotonic() + _CLOSE_S
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.socket.close()
        self._workers.clear()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def kill(self) -> None:
        """End the workers at once, as after a stall."""
        for worker in self._workers:
            worker.process.kill()
        self.close()

    def _spawn(self, rank: int) -> _Worker:
        own = self.plan.worker_env[rank] if rank < len(self.plan.worker_env) else {}
        with socket_pair() as (ours, theirs):
            process = subprocess.Popen(
                [sys.executable, "-m", "inferplane.execution.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints is log, never an answer
                pass_fds=(theirs.fileno(),),
                env={**self.environment, **own},
            )
        worker = _Worker(rank, process, FrameSocket(ours))
        rendezvous = f"file://{self._folder}/rendezvous"
        worker.socket.send(wire.encode(wire.Begin(self.plan, rank, rendezvous)))
        return worker

    def _tell(self, message: wire.ToWorker) -> None:
        payload = wire.encode(message)
        for worker in self._workers:
            worker.socket.send(payload)

    def _report(self) -> None:
        self._tell(wire.Report())
        first, *_ = self._answers(wire.Reported, patience=self.patience)
        self._stats, self._choices = first.stats, first.choices

    def _answers(
        self,
        kind: type[AnswerT],
        progress: Progress | None = None,
        patience: Patience | None = None,
    ) -> list[AnswerT]:
        """One answer from each rank, in rank order; progress of rank 0 is passed on.

        Without `patience` there is no time limit.
        """
        answers: dict[int, AnswerT] = {}
        since = time.monotonic()
        while len(answers) < len(self._workers):
            waiting = [worker for worker in self._workers if worker.rank not in answers]
            for worker in waiting:
                while worker.rank not in answers and (payload := worker.socket.take()):
                    answer = self._decode(payload)
                    if isinstance(answer, kind):
                        answers[worker.rank] = answer
                    elif isinstance(answer, wire.Progressed):
                        if progress is not None and worker.rank == 0:
                            progress(answer.phase, answer.done, answer.total, answer.detail)
                    else:
                        _raise(answer, worker.rank)
                if worker.rank not in answers and worker.socket.closed:
                    self._died(worker)
            waiting = [worker for worker in waiting if worker.rank not in answers]
            if waiting:
                self._wait(waiting, since, patience)
        return [answers[worker.rank] for worker in self._workers]

    def _wait(self, workers: list[_Worker], since: float, patience: Patience | None) -> None:
        """Until one of them can be read, or has been silent for too long."""
        poll = select.poll()
        for worker in workers:
            unsent = select.POLLOUT if worker.socket.unsent_bytes else 0
            poll.register(worker.socket, select.POLLIN | unsent)
        ready = poll.poll(None if patience is None else patience.stalled_s * 1000)
        if patience is not None and not ready:
            silent_s = time.monotonic() - since
            for worker in workers:
                if is_stopped(worker.process.pid) or silent_s >= patience.hopeless_s:
                    raise DeviceError(f"no answer from rank {worker.rank} for {silent_s:.0f} s")
        for worker in workers:
            worker.socket.flush()

    def _died(self, worker: _Worker) -> NoReturn:
        try:
            code = worker.process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:  # it closed its socket and lives on
            worker.process.kill()
            code = worker.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise DeviceError(f"the worker of rank {worker.rank} died: {how}")


class WorkerPending:
    """A step the workers run; results come in the order of execution."""

    def __init__(self, executor: WorkerExecutor) -> None:
        self._executor = executor

    def result(self) -> StepResult:
        """Wait for all ranks."""
        return self._executor.collect()


def _raise(answer: wire.FromWorker, rank: int) -> NoReturn:
    """What a worker reports is raised here as the same class, so that exit codes stay right."""
    if not isinstance(answer, wire.Broke):
        raise DeviceError(f"rank {rank} answered out of turn: {type(answer).__name__}")
    kind = getattr(errors, answer.kind, DeviceError)
    if issubclass(kind, ConfigError | DeviceError):
        raise kind(answer.message)
    raise DeviceError(f"rank {rank}: {answer.message}")
