"""What a run found, as a table and as JSON that later runs add to."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probe import Reading

__all__ = ["CaseRecord", "Record"]

_DRIFT = 0.05


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """One row: tokens a second of each contestant in each turn, ours first."""

    name: str
    unit: str
    figures: Mapping[str, Sequence[float]]
    limit: float
    """The serial floor's rate by the better of both probes."""
    before: Reading
    after: Reading
    targets: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def ratio(self, other: str) -> float:
        """Median over turns of ours / other."""
        ours = next(iter(self.figures.values()))
        pairs = zip(ours, self.figures[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def lines(self) -> list[str]:
        """A line for each contestant."""
        told = []
        for place, (name, found) in enumerate(self.figures.items()):
            middle = statistics.median(found)
            ratio = "" if place == 0 else f"{self.ratio(name):.2f}"
            floor, goal = self.targets.get(name, ("", ""))
            told.append(
                f"| {self.name if place == 0 else ''} | {name} | {middle:,.1f} {self.unit} | "
                f"{min(found):,.1f}–{max(found):,.1f} | {middle / self.limit:.0%} | {ratio} | "
                f"{floor} | {goal} |"
            )
        return told

    def drift(self) -> str:
        """A warning where the machine changed under the case."""
        a, b = self.before.bytes_per_s, self.after.bytes_per_s
        if abs(a - b) <= _DRIFT * max(a, b):
            return ""
        return f"{self.name}: the probe moved from {a / 1e9:.1f} to {b / 1e9:.1f} GB/s; repeat it"


@dataclass(slots=True)
class Record:
    """Everything of one or more runs on one machine."""

    versions: dict[str, str] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    idle_cpu: dict[str, float] = field(default_factory=dict)
    """Share of one processor that a loaded contestant uses without work."""
    missing: dict[str, str] = field(default_factory=dict)
    cases: list[CaseRecord] = field(default_factory=list)

    def text(self) -> str:
        """Markdown, with what is missing and what moved."""
        lines = [
            "| workload | system | median | range | of limit | ours / it | floor | goal |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for case in self.cases:
            lines += case.lines()
        lines += [
            f"probe at {c.name}: {c.before.bytes_per_s / 1e9:.1f}, {c.after.bytes_per_s / 1e9:.1f} "
            f"GB/s; bf16 {c.before.bf16_per_s / 1e9:.0f} GFLOP/s, "
            f"int8 {c.before.int8_per_s / 1e9:.0f} GOP/s"
            for c in self.cases
        ]
        lines += [warning for case in self.cases if (warning := case.drift())]
        lines += [f"{name}: {version}" for name, version in self.versions.items()]
        lines += [f"first token of {n}: {s:.1f} s" for n, s in self.starts_s.items()]
        lines += [f"idle, {name}: {share:.1%} of a core" for name, share in self.idle_cpu.items()]
        lines += [f"missing: {name}: {reason}" for name, reason in self.missing.items()]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Add to what is there; a case or figure measured again replaces its older self."""
        old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        new = asdict(self)
        fresh = {case["name"] for case in new["cases"]}
        kept = [case for case in old.get("cases", []) if case["name"] not in fresh]
        merged = {
            key: {**old.get(key, {}), **new[key]}
            for key in ("versions", "starts_s", "idle_cpu", "missing")
        }
        machine = {"system": platform.platform(), "processor": _processor()}
        path.write_text(
            json.dumps({"machine": machine, **merged, "cases": kept + new["cases"]}, indent=1)
            + "\n"
        )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
