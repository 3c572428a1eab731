"""Many seeds on several cores."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context

from inferplane.testing.simulation.runner import simulate

__all__ = ["Tally", "run_campaign", "run_slice"]

_SLICE = 10
"""Seeds handed to a process at once."""


@dataclass(slots=True)
class Tally:
    """What came of many seeds."""

    first: int = 0
    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    failures: list[int] = field(default_factory=list)
    """Seeds that failed."""


def run_campaign(seeds: Sequence[int], steps: int, jobs: int, until: float | None = None) -> Tally:
    """Run each seed for at least `steps` steps; none begins after `until` (monotonic seconds)."""
    began = time.monotonic()
    tally = Tally(first=seeds[0] if seeds else 0)
    rest = iter(seeds)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _collect_between_slices) as pool:
        running: set[Future[Tally]] = set()
        while True:
            late = until is not None and time.monotonic() >= until
            while not late and len(running) < 2 * jobs and (part := list(islice(rest, _SLICE))):
                running.add(pool.submit(run_slice, part, steps))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                _add(tally, future.result())
    tally.failures.sort()
    tally.seconds = time.monotonic() - began
    return tally


def run_slice(seeds: Iterable[int], steps: int) -> Tally:
    """These seeds, one after the other, in this process."""
    tally = Tally()
    for seed in seeds:
        report = simulate(seed, steps)
        tally.seeds += 1
        tally.steps += report.steps
        if report.failure is not None:
            tally.failures.append(seed)
    gc.collect()
    return tally


def _collect_between_slices() -> None:
    """Worlds are full of references and make little garbage; modules need no second look."""
    gc.disable()
    gc.freeze()


def _add(total: Tally, part: Tally) -> None:
    total.seeds += part.seeds
    total.steps += part.steps
    total.failures += part.failures
