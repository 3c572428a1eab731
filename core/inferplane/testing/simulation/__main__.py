"""Command line of the simulation: one seed, or many."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from inferplane.testing.simulation.knobs import draw_knobs
from inferplane.testing.simulation.minimiser import minimise
from inferplane.testing.simulation.runner import Report, simulate
from inferplane.testing.simulation.violation import Violation


def main() -> int:
    """Run; the exit code tells a broken invariant (20), no progress (21) or a crash (22)."""
    parser = argparse.ArgumentParser(prog="python -m inferplane.testing.simulation")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--steps", type=int, default=2500, help="steps with faults for each seed")
    parser.add_argument("--minimise", action="store_true", help="shrink a failure")
    asked = parser.parse_args()
    started, steps = perf_counter(), 0
    for seed in range(asked.seed, asked.seed + asked.seeds):
        report = simulate(seed, asked.steps)
        steps += report.steps
        if asked.seeds == 1:
            print(f"seed {seed}: {report.steps} steps, digest {report.digest}")
            print(
                f"ended: {report.finished}; preemptions {report.preemptions}, "
                f"rollbacks {report.rollbacks}"
            )
        if report.failure is not None:
            return _failed(report, asked.minimise)
    seconds = perf_counter() - started
    print(f"{asked.seeds} seeds, {steps} steps, {steps / seconds:.0f} steps/s, 0 failures")
    return 0


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
