"""A scheduler, a shadow device and everything known about both; actions change it, checks watch."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from inferplane.errors import RequestError
from inferplane.interfaces import StepResult
from inferplane.request import FinishReason
from inferplane.scheduling.digest_chain import sha256
from inferplane.scheduling.plan import SequenceEvent, StepPlan
from inferplane.scheduling.prefix_cache import CacheOptions
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.testing.simulation import actions as act
from inferplane.testing.simulation.arrivals import Arrivals
from inferplane.testing.simulation.flaky_blocks import FlakyBlocks
from inferplane.testing.simulation.invariants import (
    blocks_of_failed,
    check_blocks,
    check_free_list,
    check_index,
    check_plan,
    check_requests,
    check_waiting,
)
from inferplane.testing.simulation.knobs import Knobs, SmallShapes
from inferplane.testing.simulation.oracle import EOS, STOP_ID, Life
from inferplane.testing.simulation.shadow import Faults, ShadowDevice
from inferplane.testing.simulation.violation import Violation

__all__ = ["World"]

_THOROUGH_EVERY = 16
_encode = msgspec.msgpack.encode
_MASK = (1 << 64) - 1
_SMALL_POOL = 12
"""Walked four times as often."""
_CHECKED_LATER = frozenset((act.Add, act.Answer, act.Tick, act.Hold, act.ReadyAll, act.AnswerTwice))
"""What the next step's recount of blocks covers: it comes in the same or the next turn."""


class World:
    """One simulated engine without its processes."""

    def __init__(self, knobs: Knobs, make_scheduler: Callable[..., Scheduler] = Scheduler) -> None:
        self.knobs = knobs
        self.now = 0.0
        self.lives: dict[str, Life] = {}
        self.in_flight: deque[tuple[StepPlan, StepResult]] = deque()
        self.steps = 0
        self._checks = 0
        self._unchanged = False
        """The action was a plan without content, as often while results are out: nothing is new."""
        self._thorough_every = _THOROUGH_EVERY // (4 if knobs.num_blocks <= _SMALL_POOL else 1)
        self._planned_at = -1e18
        self.log = hashlib.sha256()
        self.blocks = FlakyBlocks(
            knobs.num_blocks,
            knobs.block_size,
            knobs.groups(),
            caching=knobs.settings.prefix_cache and knobs.limits.prefix_cache,
            hash_root=b"simulation",
            prefer_low_ids=knobs.limits.prefer_low_block_ids,
            in_flight_tokens=0,
            options=_options(knobs),
        )
        self.scheduler = make_scheduler(
            knobs.config,
            knobs.settings,
            knobs.limits,
            knobs.shapes,
            self.blocks,
            features=knobs.features,
        )
        self.device = self._new_device()
        self._late: list[tuple[StepPlan, StepResult]] = []
        """Results of workers that were replaced."""
        self._handlers: dict[type, Callable[..., None]] = {
            act.Add: self._add,
            act.Step: self._step,
            act.Answer: self._answer,
            act.AnswerTwice: self._answer_twice,
            act.Finish: self._finish,
            act.Hold: self._hold,
            act.ReadyAll: self._ready_all,
            act.Pause: self._pause,
            act.Reset: self._reset,
            act.ReplaceWorker: self._replace_worker,
            act.Tick: self._tick,
        }
        self._last: tuple[StepPlan, StepResult] | None = None
        self._right = int(knobs.acceptance * (1 << 53))
        """Draws of 53 bits below it are drafts that are right."""
        self._arrivals = Arrivals(knobs)

    @property
    def is_full(self) -> bool:
        """Whether the queue takes nobody."""
        return self.scheduler.num_waiting >= self.scheduler.limits.max_waiting

    # ── actions ──

    def apply(self, action: act.Action) -> None:
        """Do it and check everything."""
        kind = type(action)
        self._handlers[kind](action)
        if kind not in _CHECKED_LATER and not self._unchanged:
            self.check()
        self._unchanged = False

    def _step(self, action: act.Step) -> None:
        scheduler = self.scheduler
        idle = not scheduler.num_in_flight
        running = scheduler.running[:]
        self.blocks.countdown = action.failed_allocation
        self.blocks.refused = False
        plan = scheduler.schedule(self.now)
        self.blocks.countdown = 0
        self._tell(plan.ended)
        check_plan(scheduler, plan, running)
        self._check_shape(plan)
        for name in plan.preempted:
            sequence = scheduler.sequences[name]
            kept = sequence.valid_from < sequence.run
            self._require(11, kept, f"{name} lost what is in flight")
        if plan:
            faults = Faults(action.failed_rows, action.silent_rows)
            self.in_flight.append((plan, self.device.run(plan, faults)))
            self.steps += 1
        elif idle and not self.blocks.refused and not scheduler.paused:
            ready = [s for s in scheduler.sequences.values() if _could_run(s)]
            self._require(17, not ready, "nothing was scheduled")
        self._unchanged = not (plan or plan.ended or plan.preempted)
        self._planned_at = self.now
        self._note(plan)

    def _answer(self, action: act.Answer) -> None:
        if not self.in_flight:
            return
        scheduler = self.scheduler
        plan, result = self.in_flight.popleft()
        self._last = (plan, result)
        late, self._late = self._late, []
        bad = blocks_of_failed(plan, result, self.blocks.cache.index.pending)
        events = scheduler.update(plan, result)
        for sequence in scheduler.running if bad else ():
            sound = bad.isdisjoint(sequence.adopted)
            self._require(13, sound, f"{sequence.request_id} stands on bad blocks")
        for old in late:
            self._require(25, scheduler.update(*old) == [], "an old epoch spoke")
        self._check_rows(plan, events)
        self._tell(events)
        check_requests(scheduler, self.lives)

    def _answer_twice(self, action: act.AnswerTwice) -> None:
        if self._last is not None:
            self._require(9, self.scheduler.update(*self._last) == [], "answered twice")

    def _ready_all(self, action: act.ReadyAll) -> None:
        for name in list(self.scheduler.sequences):
            self.scheduler.ready(name)

    def _tick(self, action: act.Tick) -> None:
        self.now += action.seconds

    def _add(self, action: act.Add) -> None:
        request = self._arrivals.request(action)
        scheduler = self.scheduler
        try:
            sequence = scheduler.add(request, self.now)
        except RequestError as error:
            self.log.update(error.code.encode())
            return
        worst = self.blocks.worst_case(len(request.prompt_ids))
        self._require(16, worst <= self.blocks.usable, "admitted beyond the pool")
        limits = scheduler.limits
        self._require(20, scheduler.num_waiting <= limits.max_waiting + limits.max_seqs, "queue")
        tokens, chains = self._arrivals.alone(request, sequence.max_len)
        last = tokens[-1]
        stopped = len(tokens) > len(request.prompt_ids) and last in (EOS, STOP_ID)
        self.lives[request.request_id] = Life(
            request,
            sequence,
            tokens,
            chains,
            FinishReason.STOP if stopped or request.pooling else FinishReason.LENGTH,
            STOP_ID if stopped and last == STOP_ID else None,
            sequence.deadline_s,
        )

    def _finish(self, action: act.Finish) -> None:
        names = list(self.scheduler.sequences)
        if not names:
            return
        chosen = list(dict.fromkeys(names[number % len(names)] for number in action.numbers))
        events = self.scheduler.finish([*chosen, "nobody", *chosen], action.reason, action.error)
        ended = [event.sequence.request_id for event in events]
        self._require(28 if action.error else 9, ended == chosen, f"{ended} end, {chosen} should")
        alive = len(self.scheduler.sequences)
        self._require(28, alive == len(names) - len(chosen), f"{alive} of {len(names)} go on")
        for name in ended:
            self.lives[name].ended = True

    def _hold(self, action: act.Hold) -> None:
        waiting = [s for s in self.scheduler.waiting if s.state is SequenceState.WAITING]
        if waiting:
            name = waiting[action.number % len(waiting)].request_id
            self.scheduler.hold(name, action.state)

    def _pause(self, action: act.Pause) -> None:
        if action.mode is None:
            self.scheduler.resume()
            return
        for event in self.scheduler.pause(action.mode):
            self.lives[event.sequence.request_id].ended = True

    def _reset(self, action: act.Reset) -> None:
        order = [s.request_id for s in self.scheduler.running]
        done = self.scheduler.reset_prefix_cache(action.running)
        if action.running and not self.in_flight:
            self._require(4, done, "reset refused with nothing running")
            waiting = [s.request_id for s in self.scheduler.waiting]
            if self.knobs.settings.policy == "fcfs":
                self._require(19, [n for n in waiting if n in order] == order, "order lost")

    def _replace_worker(self, action: act.ReplaceWorker) -> None:
        self.scheduler.worker_replaced()
        self._late += self.in_flight
        self.in_flight.clear()
        self.device = self._new_device()
        for life in self.lives.values():
            life.checked = []

    # ── watching ──

    def _tell(self, events: list[SequenceEvent]) -> None:
        """The client's view: every token once, in order, and one end."""
        for event in events:
            name = event.sequence.request_id
            life, told = self.lives[name], event.token_ids
            if life.ended:
                raise Violation(9, f"step {self.steps}: {name} is told more")
            start = len(life.request.prompt_ids) + life.emitted
            if told != life.tokens[start : start + len(told)]:
                raise Violation(22, f"step {self.steps}: {name}, {life.emitted} tokens told")
            life.emitted += len(told)
            if event.finish is not None:
                life.ended = True
                self._check_end(event, life)

    def _check_rows(self, plan: StepPlan, events: list[SequenceEvent]) -> None:
        """An event names the row its tokens came from."""
        sampled = [e.sequence for e in plan.scheduled if e.samples]
        pooled = [e.sequence for e in plan.scheduled if e.sequence.request.pooling]
        for event in events:
            rows = pooled if event.sequence.request.pooling else sampled
            if rows[event.row] is not event.sequence:
                raise Violation(11, f"step {self.steps}: {event.sequence.request_id}")

    def _check_shape(self, plan: StepPlan) -> None:
        shapes = self.knobs.shapes
        if isinstance(shapes, SmallShapes) and plan:
            longest = max(entry.num_tokens for entry in plan.scheduled)
            fits = len(plan.scheduled) <= shapes.max_seqs and longest <= shapes.max_query
            self._require(8, fits, "a shape that does not exist")

    def _check_end(self, event: SequenceEvent, life: Life) -> None:
        name = life.request.request_id
        if event.finish is FinishReason.ERROR:
            if event.error == "model_numerical_error":
                self._require(27, life.may_fail, name)
            return
        same = (event.finish, event.stop_reason) == (life.finish, life.stop_reason)
        self._require(22, same, (name, event.finish, life.finish))
        outputs = len(life.tokens) - len(life.request.prompt_ids)
        self._require(11, life.emitted == outputs, (name, life.emitted, outputs))

    def check(self) -> None:
        """Recount everything, the costly part now and then."""
        check_blocks(self.scheduler)
        check_requests(self.scheduler, self.lives)
        self._checks += 1
        if self._checks % self._thorough_every:
            return
        check_free_list(self.scheduler)
        check_index(self.scheduler)
        check_waiting(self.scheduler)
        self._forget_the_dead()

    def _forget_the_dead(self) -> None:
        known = self.scheduler.sequences
        gone = []
        for name, life in self.lives.items():
            if life.ended:
                gone.append(name)
            if life.ended == (name in known):
                raise Violation(10, f"step {self.steps}: {name}")
            deadline = life.deadline_s
            if deadline is not None and deadline <= self._planned_at and not life.ended:
                raise Violation(21, f"step {self.steps}: {name}")
        if gone:
            flying = {e.sequence.request_id for p, _ in self.in_flight for e in p.scheduled}
            for name in gone:
                if name not in flying:
                    del self.lives[name]

    def _note(self, plan: StepPlan) -> None:
        """One line of the event log; its digest is the identity of a run."""
        line = [plan.step, plan.preempted, plan.zeroed, plan.copied, plan.released]
        for entry in plan.scheduled:
            sequence = entry.sequence
            line += sequence.request.request_id, sequence.lane, entry.start, entry.num_tokens
            for table in sequence.tables:
                line.append(table[-1])
            if entry.drafts:
                line += entry.drafts
        self.log.update(_encode(line))

    def _new_device(self) -> ShadowDevice:
        knobs = self.knobs
        return ShadowDevice(
            knobs.num_blocks,
            knobs.block_size,
            knobs.windows,
            knobs.cache.adopt_in_step,
            self.lives.__getitem__,
            self._guess if knobs.device_drafts and knobs.settings.num_drafts else None,
        )

    def _guess(self, life: Life, position: int) -> list[int]:
        """Device drafts, right with the chance that the knobs say; a function of the place."""
        drafts = life.tokens[position : position + self.knobs.settings.num_drafts]
        draw = (position * 7919 + len(life.tokens)) * 0x9E3779B97F4A7C15
        for i in range(len(drafts)):
            draw = (draw ^ (draw >> 29)) * 0xBF58476D1CE4E5B9 & _MASK
            drafts[i] += (draw >> 11) >= self._right
        return drafts

    def _require(self, invariant: int, holds: bool, message: object) -> None:
        if not holds:
            raise Violation(invariant, f"step {self.steps}: {message}")


def _could_run(sequence: Sequence) -> bool:
    return sequence.state in (
        SequenceState.WAITING,
        SequenceState.PREEMPTED,
        SequenceState.RUNNING,
    )


def _options(knobs: Knobs) -> CacheOptions:
    if not knobs.weak_digest:
        return knobs.cache
    return replace(knobs.cache, digest=lambda data: sha256(data)[:1] + bytes(31))
