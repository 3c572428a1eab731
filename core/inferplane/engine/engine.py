"""The engine: owns every request's state and runs one step after another.

Knows nothing of sockets, processes and devices; see `process.py` and `placement.py` for those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from inferplane.engine.admission import Admission
from inferplane.engine.batch_builder import BatchBuilder, BuiltStep
from inferplane.engine.grammars import Grammars, vocabulary_maker
from inferplane.engine.host_rows import draw_host_rows
from inferplane.engine.messages import Admitted, EngineStats, Rejected, SequenceOutput
from inferplane.engine.outputs import FinishedStep, OutputWriter
from inferplane.engine.sampling_rows import needs_last_token
from inferplane.engine.stats import Counters, report
from inferplane.errors import RequestError
from inferplane.interfaces import Executor, KVPlan, Pending, ShapePolicy, StepResult
from inferplane.launch import LaunchPlan
from inferplane.media import check_media_room
from inferplane.request import FinishReason, Request
from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.plan import SequenceEvent, StepPlan
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import Sequence, SequenceState

__all__ = ["Engine", "Flight"]


@dataclass(frozen=True, slots=True)
class Flight:
    """A step under way."""

    plan: StepPlan
    built: BuiltStep
    pending: Pending[StepResult]


class Engine:
    """One executor, one scheduler, and the requests between them."""

    def __init__(
        self,
        executor: Executor,
        kv: KVPlan,
        launch: LaunchPlan,
        shapes: ShapePolicy,
        clock: Callable[[], float],
        hash_root: bytes,
        grammars: Grammars | None = None,
    ) -> None:
        """`grammars` None = over the vocabulary of the checkpoint that the plan names."""
        config, sampler = launch.config, launch.caps.sampler
        # token_source reaches one step back, so overlap goes no deeper
        limits = replace(launch.caps.limits, async_steps=min(launch.caps.limits.async_steps, 1))
        self.executor = executor
        self.clock = clock
        self.async_steps = limits.async_steps
        self.blocks = BlockManager(
            kv.num_blocks,
            kv.block_size,
            kv.groups,
            caching=launch.scheduler.prefix_cache and limits.prefix_cache,
            hash_root=hash_root,
            prefer_low_ids=limits.prefer_low_block_ids,
        )
        self.scheduler = Scheduler(
            config,
            launch.scheduler,
            limits,
            shapes,
            self.blocks,
            host_bound=lambda request: needs_last_token(request.sampling, sampler),
        )
        vocab_size = launch.model.vocab_size
        self.grammars = grammars or Grammars(vocabulary_maker(config.model, vocab_size), vocab_size)
        self.builder = BatchBuilder(
            kv,
            sampler,
            config.max_num_seqs,
            config.max_model_len,
            vocab_size,
            self.grammars,
            launch.image_token,
        )
        self.admission = Admission(
            sampler,
            launch.plugin,
            vocab_size,
            generates=launch.generates,
            image_token=launch.image_token,
        )
        self.last_plan = StepPlan(0)
        self.in_flight: deque[Flight] = deque()
        self.outputs: list[SequenceOutput] = []
        """What the front end has not been told yet; the caller takes and clears it."""
        self.writer = OutputWriter()
        self.counters = Counters()

    @property
    def busy(self) -> bool:
        """Whether there is anything to step for."""
        return bool(self.scheduler.num_unfinished or self.in_flight)

    def add(self, request: Request) -> Admitted | Rejected:
        """Take a request in, or say why not."""
        try:
            self.admission.check(request)
            if request.items:
                check_media_room(request.items, self._held_media_bytes())
            self.scheduler.add(request, self.clock())
            if request.sampling.grammar is not None:
                self.scheduler.hold(request.request_id, SequenceState.WAITING_GRAMMAR)
                self.grammars.begin(request.request_id, request.sampling.grammar)
        except RequestError as error:
            self.counters.rejected[error.code] += 1
            return Rejected(request.request_id, error.code, str(error), error.param)
        return Admitted(request.request_id)

    def abort(
        self, ids: Iterable[str], reason: FinishReason = FinishReason.ABORT, error: str = ""
    ) -> None:
        """End requests now, in whatever state; unknown ids are ignored.

        `error` is the wire code when `reason` is ERROR.
        """
        self.publish(self.scheduler.finish(ids, reason, error))

    def step(self) -> bool:
        """Plan and enqueue one step, then take in the oldest result that is due.

        False when there was nothing to do. Raises what the executor raises.
        """
        if self.grammars.in_use:
            self._look_at_grammars()
        plan = self.last_plan = self.scheduler.schedule(self.clock())
        self.publish(plan.ended)
        if plan:
            built = self.builder.build(plan)
            self.in_flight.append(Flight(plan, built, self.executor.execute(built.batch)))
            self.counters.count_step(built.batch)
        if self.in_flight and (not plan or len(self.in_flight) > self.async_steps):
            self.take_in(self.in_flight[0])
            return True
        return bool(plan)

    def _held_media_bytes(self) -> int:
        sequences = self.scheduler.sequences.values()
        return sum(item.num_bytes for sequence in sequences for item in sequence.items)

    def _look_at_grammars(self) -> None:
        """Let those start whose grammar is there; end those that cannot go on."""
        for request_id, built in self.grammars.settled(self.scheduler.sequences.get):
            if built:
                self.scheduler.ready(request_id)
            else:
                self.abort((request_id,), FinishReason.ERROR, "invalid_grammar")
        if failed := self.grammars.failed():
            self.abort(failed, FinishReason.ERROR, "internal_error")

    def take_in(self, flight: Flight) -> None:
        """Wait for the oldest step's result, apply it, publish what it means."""
        result = draw_host_rows(flight.built, flight.pending.result())
        self.in_flight.popleft()
        step = FinishedStep(flight.plan, flight.built.batch, result)
        self.writer.collect(step)
        self.publish(self.scheduler.update(flight.plan, result), step)

    def suspects(self) -> list[Sequence]:
        """Requests of the newest plan and of all steps in flight, when one of them raised."""
        plans = [*(flight.plan for flight in self.in_flight), self.last_plan]
        found = {id(i.sequence): i.sequence for plan in plans for i in plan.scheduled}
        return [s for s in found.values() if s.request_id in self.scheduler.sequences]

    def worker_replaced(self) -> None:
        """The executor came back empty: everything is computed again, nothing is lost."""
        self.in_flight.clear()
        self.scheduler.worker_replaced()

    def publish(self, events: list[SequenceEvent], step: FinishedStep | None = None) -> None:
        """Write events to `outputs`."""
        if events:
            if self.grammars.in_use:
                for event in events:
                    if event.finish is not None:
                        self.grammars.forget(event.sequence.request_id)
            self.outputs += self.writer.write(events, self.clock(), step)

    def stats(self) -> EngineStats:
        """Gauges and counters now."""
        return report(self.counters, self.scheduler, self.last_plan, self.executor.stats())
