"""Runs a seed: faults first, then peace until everybody is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from inferplane.scheduling.scheduler import Scheduler
from inferplane.testing.simulation import actions as act
from inferplane.testing.simulation.driver import Driver
from inferplane.testing.simulation.knobs import Knobs, draw_knobs
from inferplane.testing.simulation.violation import Stuck, Violation
from inferplane.testing.simulation.world import World

__all__ = ["Report", "replay", "simulate"]


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
    remember, apply = report.actions.append, world.apply
    for action in actions:
        remember(action)
        apply(action)


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
    counters = scheduler.counters
    useful = counters.prompt_tokens + counters.generated_tokens
    if counters.recomputed_tokens > 2 * useful:
        raise Violation(18, f"{counters.recomputed_tokens} tokens computed again for {useful}")
    if scheduler.blocks.num_free != scheduler.blocks.usable:
        raise Violation(4, "all are done and blocks are still held")
