"""What runs in the next step, and what the last one meant.

Plain synchronous Python: no clock, no randomness, no device. The same calls give the same plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from inferplane.errors import RequestError
from inferplane.interfaces import EngineConfig, SchedulerLimits, ShapePolicy, StepResult
from inferplane.launch import SchedulerConfig
from inferplane.request import FinishReason, Request
from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.intake import make_sequence, needs_host_work
from inferplane.scheduling.outcome import Outcome
from inferplane.scheduling.plan import SequenceEvent, StepPlan
from inferplane.scheduling.policy import Policy
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.scheduling.state import (
    Features,
    Limits,
    PauseMode,
    SchedulerCounters,
    SchedulerState,
)
from inferplane.scheduling.step_planner import StepPlanner

__all__ = ["Scheduler"]

_STATES = {
    FinishReason.STOP: SequenceState.STOPPED,
    FinishReason.LENGTH: SequenceState.LENGTH_CAPPED,
    FinishReason.ABORT: SequenceState.ABORTED,
    FinishReason.ERROR: SequenceState.FAILED,
}
_HELD_STATES = frozenset(
    (
        SequenceState.WAITING_GRAMMAR,
        SequenceState.WAITING_REMOTE,
        SequenceState.WAITING_INPUT,
    )
)


def _host_bound(request: Request) -> bool:
    return needs_host_work(request.sampling)


class Scheduler:
    """Owns queues and progress of all requests of one engine.

    Each turn: `schedule`, run the plan if it is not empty, `update` with its result. Up to
    `async_steps` plans may be out when the next one is made; results are applied in order.
    """

    def __init__(
        self,
        config: EngineConfig,
        settings: SchedulerConfig,
        limits: SchedulerLimits,
        shapes: ShapePolicy,
        blocks: BlockManager,
        *,
        features: Features | None = None,
        host_bound: Callable[[Request], bool] = _host_bound,
    ) -> None:
        """`host_bound` says whose next input needs host work on the last token, which costs it
        every other step while steps overlap.

        Raises ConfigError when no step could ever run.
        """
        self.blocks = blocks
        blocks.cache.index.adopt = blocks.cache.index.adopt and settings.adopt_pending
        self._host_bound = host_bound
        self._state = SchedulerState(
            config, settings, limits, shapes, blocks, features or Features()
        )
        self._outcome = Outcome(self._state, self._end)

    # ── requests in and out ──

    def add(self, request: Request, now: float) -> Sequence:
        """Queue a request. `now` = seconds on the caller's clock, as for `schedule`.

        Raises RequestError: `context_length_exceeded` or `capacity_exceeded` for what could never
        run, `queue_full`, `conflicting_fields` for an id that is in use.
        """
        state = self._state
        if request.request_id in state.sequences:
            raise RequestError(
                "conflicting_fields", f"request id {request.request_id!r} is in use", "request_id"
            )
        sequence = make_sequence(state, request, now, self._host_bound)
        state.sequences[request.request_id] = sequence
        state.waiting.add(sequence)
        for when in (sequence.deadline_s, sequence.queue_deadline_s):
            if when is not None and when < state.next_expiry:
                state.next_expiry = when
        return sequence

    def finish(
        self, ids: Iterable[str], reason: FinishReason, error: str = ""
    ) -> list[SequenceEvent]:
        """End requests now, in whatever state; unknown ids are ignored.

        `error` is the wire code when `reason` is ERROR.
        """
        events = []
        for request_id in ids:
            sequence = self._state.sequences.get(request_id)
            if sequence is not None:
                self._end(sequence, reason, error)
                events.append(SequenceEvent(sequence, [], -1, reason, error=error))
        self._state.prune_running()
        return events

    def hold(self, request_id: str, state: SequenceState) -> None:
        """Set a waiting request aside until `ready`, in its place; ValueError if it cannot be."""
        sequence = self._state.sequences[request_id]
        if state not in _HELD_STATES or sequence.state is not SequenceState.WAITING:
            raise ValueError(f"cannot hold {request_id} as {state.value} while {sequence.state}")
        sequence.state = state

    def ready(self, request_id: str) -> None:
        """What a request was set aside for is there; remote KV then goes before all others."""
        sequence = self._state.sequences.get(request_id)
        if sequence is None or sequence.state not in _HELD_STATES:
            return
        if sequence.state is SequenceState.WAITING_REMOTE:
            self._state.waiting.remove(sequence)
            sequence.queue_key = (-1, *sequence.queue_key[1:])
            self._state.waiting.add(sequence)
        sequence.state = SequenceState.WAITING

    def offer_drafts(self, request_id: str, drafts: Iterable[int]) -> None:
        """Guesses of somebody else for the next decode step; ignored while prefill lasts."""
        sequence = self._state.sequences.get(request_id)
        if sequence is not None and sequence.state is SequenceState.RUNNING:
            sequence.drafts = list(drafts)

    # ── steps ──

    def schedule(self, now: float) -> StepPlan:
        """Plan the next step; an empty plan must not be run, and its number is used again."""
        state, blocks = self._state, self.blocks
        plan = StepPlan(state.step + 1)
        blocks.cache.step = plan.step
        if now >= state.next_expiry:
            plan.ended = self._expire(now)
        StepPlanner(state, plan).run(now)
        if plan.scheduled:
            state.step = plan.step
            state.in_flight.append(plan)
            blocks.pool.newest_step = plan.step
            plan.released, state.released = state.released, []
            plan.zeroed, blocks.pool.zeroed = blocks.pool.zeroed, []
            plan.copied, blocks.copied = blocks.copied, []
        self._count_skips(plan)
        return plan

    def update(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """Apply a result; rows are the entries of the plan with `samples`, in order.

        A plan that is not in flight any more (answered twice, or before `worker_replaced`) changes
        nothing. Raises ValueError when an older one is still out.
        """
        state = self._state
        if plan not in state.in_flight:
            return []
        if plan is not state.in_flight[0]:
            oldest = state.in_flight[0].step
            raise ValueError(f"result of step {plan.step} before that of step {oldest}")
        state.in_flight.popleft()
        num_requests = len(state.sequences)
        rollbacks = state.counters.rollbacks
        events = self._outcome.apply(plan, result)
        self.blocks.pool.settle(plan.step)
        if len(state.sequences) != num_requests or state.counters.rollbacks != rollbacks:
            state.prune_running()
        return events

    def worker_replaced(self) -> None:
        """The device came back empty: forget steps in flight, compute everything again."""
        state = self._state
        self._requeue_all()
        state.in_flight.clear()
        state.released.clear()
        self.blocks.replaced()

    def reset_prefix_cache(self, reset_running: bool = False) -> bool:
        """Forget cached prefixes; False while any block is in use.

        With `reset_running` everybody starts again first, in the same order, and what is in flight
        is dropped and sampled again.
        """
        if reset_running:
            self._requeue_all()
        return self.blocks.reset()

    # ── pausing ──

    def pause(self, mode: PauseMode) -> list[SequenceEvent]:
        """keep: freeze everything; drain: let nobody new start; abort: end everything."""
        state = self._state
        state.paused = mode
        if mode == "abort":
            return self.finish(list(state.sequences), FinishReason.ABORT)
        return []

    def resume(self) -> None:
        """Go on after `pause`."""
        self._state.paused = None

    # ── what there is ──

    @property
    def running(self) -> list[Sequence]:
        """In admission order; not to be changed."""
        return self._state.running

    @property
    def waiting(self) -> list[Sequence]:
        """In queue order."""
        return list(self._state.waiting)

    @property
    def num_waiting(self) -> int:
        """Length of the queue."""
        return len(self._state.waiting)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of all waiting requests."""
        return self._state.waiting.num_tokens

    @property
    def limits(self) -> Limits:
        """Configuration and back-end in one."""
        return self._state.limits

    @property
    def policy(self) -> Policy:
        """Order of waiting and choice of victims."""
        return self._state.policy

    @property
    def paused(self) -> PauseMode | None:
        """How it is paused, if it is."""
        return self._state.paused

    @property
    def sequences(self) -> dict[str, Sequence]:
        """All requests that have not ended, by id; not to be changed."""
        return self._state.sequences

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._state.sequences)

    @property
    def num_in_flight(self) -> int:
        """Steps planned whose result has not come."""
        return len(self._state.in_flight)

    @property
    def counters(self) -> SchedulerCounters:
        """Totals since the start."""
        return self._state.counters

    def slots(self) -> tuple[int, int]:
        """(allocated, used) token places in blocks of running sequences, shared ones once."""
        size = self.blocks.block_size
        held = self.blocks.usable - self.blocks.num_free - self.blocks.pool.num_fenced
        empty = sum(
            len(table) * size - sequence.computed
            for sequence in self._state.running
            for table in sequence.tables
        )
        return held * size, held * size - empty

    # ── inside ──

    def _end(self, sequence: Sequence, reason: FinishReason, error: str) -> None:
        """Take a request out of its queue for good; the running list is pruned by the caller."""
        state = self._state
        if sequence.state is SequenceState.RUNNING:
            state.leave_running(sequence, _STATES[reason])
        else:
            state.waiting.remove(sequence)
            sequence.state = _STATES[reason]
            sequence.run += 1
        state.forget_in_flight(sequence)
        del state.sequences[sequence.request_id]
        state.counters.finished[error or reason.value] += 1

    def _requeue_all(self) -> None:
        """Everybody back to the queue, the oldest at its head."""
        state = self._state
        for sequence in reversed(state.running):
            state.requeue(sequence)
        for sequence in state.sequences.values():
            state.forget_in_flight(sequence)
        state.running = []

    def _expire(self, now: float) -> list[SequenceEvent]:
        """End what waited or lived too long, and find the next such moment."""
        state = self._state
        late, in_queue, state.next_expiry = [], [], inf
        for sequence in state.sequences.values():
            deadline, queue = sequence.deadline_s, sequence.queue_deadline_s
            if deadline is not None and now >= deadline:
                late.append(sequence.request_id)
                continue
            if sequence.first_scheduled_s is not None:
                queue = None
            if queue is not None and now >= queue:
                in_queue.append(sequence.request_id)
                continue
            for when in (deadline, queue):
                if when is not None and when < state.next_expiry:
                    state.next_expiry = when
        return self.finish(late, FinishReason.ERROR, "deadline_exceeded") + self.finish(
            in_queue, FinishReason.ERROR, "queue_timeout"
        )

    def _count_skips(self, plan: StepPlan) -> None:
        skipped = self._state.counters.skipped
        for _, reason in plan.left_out:
            skipped[reason] += 1
        if plan.behind:
            skipped[plan.behind_reason] += len(plan.behind)
