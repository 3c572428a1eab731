"""Runs a seed: faults first, then peace until everybody is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

from inferplane.request import FinishReason
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import SequenceState
from inferplane.testing.simulation import actions as act
from inferplane.testing.simulation.knobs import Knobs, draw_knobs
from inferplane.testing.simulation.violation import Stuck, Violation
from inferplane.testing.simulation.world import World

__all__ = ["Report", "replay", "simulate"]

_HELD = (
    SequenceState.WAITING_GRAMMAR,
    SequenceState.WAITING_REMOTE,
    SequenceState.WAITING_INPUT,
)


@dataclass(slots=True)
class Report:
    """What came of a run."""

    seed: int
    steps: int = 0
    digest: str = ""
    failure: Exception | None = None
    actions: list[act.Action] = field(default_factory=list)
    """Everything that was done, so that it can be done again."""
    finished: dict[str, int] = field(default_factory=dict)
    preemptions: int = 0
    rollbacks: int = 0


def simulate(
    seed: int,
    steps: int,
    knobs: Knobs | None = None,
    make_scheduler: Callable[..., Scheduler] = Scheduler,
) -> Report:
    """At least `steps` steps with faults, then as many as it takes without."""
    knobs = knobs or draw_knobs(seed)
    report = Report(seed)
    world = World(knobs, make_scheduler)
    driver = Driver(knobs, Random(seed ^ 0x5EED), world)
    try:
        turns = 0
        while world.steps < steps and turns < 3 * steps:
            turns += 1
            _apply_all(world, report, driver.turn())
        _drain(world, report, driver)
    except Exception as failure:
        report.failure = failure
    return _close(world, report)


def replay(
    knobs: Knobs,
    actions: Iterable[act.Action],
    make_scheduler: Callable[..., Scheduler] = Scheduler,
) -> Report:
    """Do the same things again."""
    report = Report(-1)
    world = World(knobs, make_scheduler)
    try:
        _apply_all(world, report, actions)
    except Exception as failure:
        report.failure = failure
    return _close(world, report)


def _apply_all(world: World, report: Report, actions: Iterable[act.Action]) -> None:
    for action in actions:
        report.actions.append(action)
        world.apply(action)


def _close(world: World, report: Report) -> Report:
    counters = world.scheduler.counters
    report.steps = world.steps
    report.digest = world.log.hexdigest()
    report.finished = dict(sorted(counters.finished.items()))
    report.preemptions = counters.preemptions
    report.rollbacks = counters.rollbacks
    return report


def _drain(world: World, report: Report, driver: Driver) -> None:
    """Faults stop: everybody must end within a computed number of steps (INV-4, 18, 19)."""
    _apply_all(world, report, [act.ReadyAll(), act.Pause(None)])
    scheduler = world.scheduler
    left = sum(s.max_len + 2 for s in scheduler.sequences.values())
    bound = 3 * left + 64
    for _ in range(2 * bound):
        if not scheduler.num_unfinished and not world.in_flight:
            break
        _apply_all(world, report, driver.peace())
    else:
        names = list(scheduler.sequences)[:5]
        raise Stuck(19, f"{names} and others are not done {bound} steps after peace")
    if scheduler.blocks.num_free != scheduler.blocks.usable:
        raise Violation(4, "all are done and blocks are still held")


class Driver:
    """Draws what happens next."""

    def __init__(self, knobs: Knobs, rng: Random, world: World) -> None:
        self.knobs = knobs
        self.rng = rng
        self.world = world
        self._arrivals = 0

    def peace(self) -> Iterator[act.Action]:
        """One turn of an undisturbed engine."""
        before = self.world.steps
        yield act.Step()
        yield from self._answer(before)

    def _answer(self, before: int) -> Iterator[act.Action]:
        """Take in a result as the engine does: when enough are out, or nothing new was planned."""
        waiting = len(self.world.in_flight)
        if waiting > self.knobs.limits.async_steps or (waiting and self.world.steps == before):
            yield act.Answer()

    def turn(self) -> Iterator[act.Action]:
        """Arrivals, faults, one step, perhaps a result."""
        rng, faults = self.rng, self.knobs.faults
        yield act.Tick(self.knobs.step_seconds)
        arrival = self.knobs.arrival
        while arrival > 0 and rng.random() < arrival:
            yield self._arrive()
            arrival -= 1
        yield from self._disturb()
        failed = (rng.randrange(64),) if rng.random() < faults.failed_row else ()
        silent = (rng.randrange(64),) if rng.random() < faults.silent_nan else ()
        refused = rng.randint(1, 3) if rng.random() < faults.failed_allocation else 0
        before = self.world.steps
        yield act.Step(failed, silent, refused)
        yield from self._answer(before)
        if rng.random() < faults.double_answer:
            yield act.AnswerTwice()

    def _disturb(self) -> list[act.Action]:
        """Everything that users, operators and hardware do at the worst moment."""
        rng, faults = self.rng, self.knobs.faults
        options: list[tuple[float, Callable[[], list[act.Action]]]] = [
            (faults.abort, lambda: [act.Finish(self._numbers())]),
            (faults.front_end_stop, lambda: [act.Finish(self._numbers(), FinishReason.STOP)]),
            (
                faults.host_failure,
                lambda: [act.Finish(self._numbers(), FinishReason.ERROR, "internal_error")],
            ),
            (faults.hold, lambda: [act.Hold(rng.randrange(64), rng.choice(_HELD))]),
            (faults.hold / 2, lambda: [act.ReadyAll()]),
            (faults.pause, lambda: [act.Pause(rng.choice(("keep", "drain", "abort")))]),
            (max(0.05, faults.pause), lambda: [act.Pause(None)]),
            (faults.reset, lambda: [act.Reset(rng.random() < 0.3)]),
            (faults.worker_death, lambda: [act.ReplaceWorker()]),
            (faults.clock_jump, lambda: [act.Tick(rng.choice((3600.0, -3600.0)))]),
        ]
        return [action for rate, make in options if rng.random() < rate for action in make()]

    def _numbers(self) -> tuple[int, ...]:
        return tuple(self.rng.randrange(1000) for _ in range(self.rng.choice((1, 1, 1, 2, 5))))

    def _arrive(self) -> act.Add:
        rng, knobs = self.rng, self.knobs
        self._arrivals += 1
        length = max(1, round(rng.expovariate(1 / knobs.mean_prompt)))
        if rng.random() < 0.01:
            length = 4 * knobs.num_blocks * knobs.block_size
        shared = rng.randrange(length + 1) if knobs.documents and rng.random() < 0.6 else 0
        return act.Add(
            name=f"r{self._arrivals}",
            document=rng.randrange(8),
            shared=min(shared, 400),
            own=max(length - shared, 0 if shared else 1),
            seed=rng.randrange(1 << 30) if rng.random() < 0.8 else rng.randrange(4),
            max_tokens=max(1, round(rng.expovariate(1 / knobs.mean_output))),
            priority=rng.randrange(3),
            tenant=rng.randrange(knobs.tenants),
            deadline_s=rng.choice((0.05, 0.5, 5.0)) if knobs.deadlines else None,
            pooling=rng.random() < 0.03,
            penalised=rng.random() < 0.1,
            prompt_logprobs=rng.random() < 0.05,
        )
