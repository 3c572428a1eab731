"""Remembers long runs: how many steps the scheduler, as it is now, has survived."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import inferplane.scheduling
from inferplane.testing.simulation.campaign import Tally

__all__ = ["Ledger", "Run", "read_ledger", "record", "scheduler_digest"]


class Run(msgspec.Struct, frozen=True):
    """One line."""

    date: str
    scheduler: str
    """Digest of the scheduler's sources."""
    first_seed: int
    seeds: int
    steps_per_seed: int
    steps: int
    seconds: float
    jobs: int
    failures: list[int]
    """Seeds that failed."""


class Ledger(msgspec.Struct):
    """All runs, oldest first."""

    runs: list[Run] = []

    def steps_of(self, scheduler: str) -> int:
        """Steps that those sources ran without a failure."""
        return sum(
            run.steps for run in self.runs if run.scheduler == scheduler and not run.failures
        )


def scheduler_digest() -> str:
    """Of every source of the scheduling room, by name."""
    (folder,) = inferplane.scheduling.__path__
    found = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def read_ledger(path: Path) -> Ledger:
    """The file's runs; none where it does not exist. Raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Ledger) if path.exists() else Ledger()


def record(path: Path, tally: Tally, steps_per_seed: int, jobs: int) -> Ledger:
    """Add a run to the file."""
    ledger = read_ledger(path)
    today = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    ledger.runs.append(
        Run(
            date=today,
            scheduler=scheduler_digest(),
            first_seed=tally.first,
            seeds=tally.seeds,
            steps_per_seed=steps_per_seed,
            steps=tally.steps,
            seconds=round(tally.seconds, 1),
            jobs=jobs,
            failures=tally.failures,
        )
    )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ledger), indent=2) + b"\n")
    return ledger
