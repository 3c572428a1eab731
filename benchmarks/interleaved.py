"""Turns A B A B …, a probe before and after, and the table of ratios. Knows nothing of models."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Comparison", "Report", "in_turns", "read_gb_per_s"]

_PROBE_MIB = 256
_PROBE_DRIFT = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload: a figure of each system in each turn. Higher is better."""

    workload: str
    unit: str
    figures: Mapping[str, Sequence[float]]

    def ratio(self, ours: str, peer: str) -> float:
        """Median over turns of ours / peer."""
        pairs = zip(self.figures[ours], self.figures[peer], strict=True)
        return statistics.median(a / b if b else math.inf for a, b in pairs)


@dataclass(slots=True)
class Report:
    """What a run found; the first system is ours."""

    systems: Mapping[str, str]
    """Name -> version, as each told."""
    comparisons: list[Comparison] = field(default_factory=list)
    probes_gb_per_s: list[float] = field(default_factory=list)

    def text(self) -> str:
        """A table, one line for each workload and system, with the ratio to each peer."""
        ours = next(iter(self.systems))
        lines = [f"{name}: {version}" for name, version in self.systems.items()]
        for one in self.comparisons:
            for name, figures in one.figures.items():
                low, high = min(figures), max(figures)
                told = f"{statistics.median(figures):9.1f} {one.unit} ({low:.1f} to {high:.1f})"
                ratio = "" if name == ours else f"   ours / {name} = {one.ratio(ours, name):.2f}"
                lines.append(f"{one.workload:24} {name:14} {told}{ratio}")
        return "\n".join([*lines, self._probe_line()])

    def _probe_line(self) -> str:
        before, after = self.probes_gb_per_s
        line = f"probe: one thread reads {before:.1f} GB/s before, {after:.1f} after"
        if abs(after / before - 1) > _PROBE_DRIFT:
            line += f"; more than {_PROBE_DRIFT:.0%} apart: the machine was not quiet, repeat"
        return line

    def write(self, path: Path) -> None:
        """All figures as JSON."""
        machine = {"system": platform.platform(), "processor": platform.processor()}
        path.write_text(json.dumps({"machine": machine, **asdict(self)}, indent=2) + "\n")


def in_turns(
    systems: Mapping[str, Callable[[], float]], turns: int, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Run every system once a turn; the warm-ups' figures are thrown away."""
    figures: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(warm_ups + turns):
        for name, run in systems.items():
            figures[name].append(run())
    return {name: found[warm_ups:] for name, found in figures.items()}


def read_gb_per_s() -> float:
    """Best of five reads of 256 MiB by one thread, in GB/s: what the memory gives right now."""
    array = np.ones(_PROBE_MIB * 2**20 // 8, np.float64)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float(array.sum())
        best = min(best, time.perf_counter() - began)
    return array.nbytes / best / 1e9
