"""Command line of the simulation, `inferplane-sim`: one seed, or many on several cores."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from inferplane.testing.simulation.campaign import Tally, run_campaign
from inferplane.testing.simulation.engine_run import simulate_engine
from inferplane.testing.simulation.knobs import draw_knobs
from inferplane.testing.simulation.ledger import record
from inferplane.testing.simulation.minimiser import minimise
from inferplane.testing.simulation.runner import Report, simulate
from inferplane.testing.simulation.violation import Violation


def main() -> int:
    """Run; the exit code tells a broken invariant (20), no progress (21) or a crash (22)."""
    asked = _arguments()
    if asked.engine:
        return _whole_engine(range(asked.seed, asked.seed + asked.seeds), asked.steps)
    if asked.seeds == 1:
        report = simulate(asked.seed, asked.steps)
        _tell(report)
        return 0 if report.failure is None else _failed(report, asked.minimise)
    until = time.monotonic() + 60 * asked.minutes if asked.minutes else None
    tally = run_campaign(
        range(asked.seed, asked.seed + asked.seeds), asked.steps, asked.jobs, until
    )
    print(_summary(tally, asked.jobs))
    if asked.ledger is not None:
        record(asked.ledger, tally, asked.steps, asked.jobs)
    if not tally.failures:
        return 0
    return max(_failed(simulate(seed, asked.steps), asked.minimise) for seed in tally.failures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inferplane-sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--steps", type=int, default=2500, help="steps with faults for each seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--minutes", type=float, default=0, help="begin no seed after that; 0 = all"
    )
    parser.add_argument("--ledger", type=Path, help="JSON file that remembers every run")
    parser.add_argument(
        "--engine", action="store_true", help="the whole engine on the null device, in one process"
    )
    parser.add_argument("--minimise", action="store_true", help="shrink a failure")
    return parser.parse_args()


def _whole_engine(seeds: range, steps: int) -> int:
    """Each seed in turn; the exit code is the worst."""
    logging.disable(logging.ERROR)  # each restart that was asked for
    code, made, began = 0, 0, time.monotonic()
    for seed in seeds:
        try:
            made += simulate_engine(seed, steps).steps
        except Exception as failure:
            print(f"seed {seed}: {type(failure).__name__}: {failure}", flush=True)
            code = max(code, failure.exit_code if isinstance(failure, Violation) else 22)
    took = time.monotonic() - began
    print(f"{len(seeds)} seeds of the whole engine, {made} steps in {took:.0f} s")
    return code


def _tell(report: Report) -> None:
    print(f"seed {report.seed}: {report.steps} steps, digest {report.digest}")
    print(
        f"ended: {report.finished}; preemptions {report.preemptions}, rollbacks {report.rollbacks}"
    )


def _summary(tally: Tally, jobs: int) -> str:
    rate = tally.steps / max(tally.seconds, 1e-9)
    return (
        f"{tally.seeds} seeds, {tally.steps} steps in {tally.seconds:.0f} s, {rate:.0f} steps/s on "
        f"{jobs} processes, {len(tally.failures)} failures"
    )


def _failed(report: Report, shrink: bool) -> int:
    failure = report.failure
    print(f"seed {report.seed}, step {report.steps}: {type(failure).__name__}: {failure}")
    if shrink:
        knobs = draw_knobs(report.seed)
        actions = minimise(knobs, report.actions)
        print(f"{knobs}\n{len(actions)} of {len(report.actions)} actions are enough:")
        for action in actions:
            print(f"    {action},")
    return failure.exit_code if isinstance(failure, Violation) else 22


if __name__ == "__main__":
    sys.exit(main())
