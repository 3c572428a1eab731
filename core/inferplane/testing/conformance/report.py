"""The kit's verdict: what each test said, the highest full level, and both as JSON."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from inferplane import __version__
from inferplane.interfaces import INTERFACE_VERSION
from inferplane.testing.conformance.features import features_of
from inferplane.testing.conformance.subject import Subject

__all__ = ["EVIDENCE", "LEVELS", "Outcome", "Report"]

LEVELS = ("hygiene", "facts", "ops", "attention", "shapes", "sampling", "models", "service")
"""What L0 to L7 are called."""
EVIDENCE = (
    "ran on hardware",
    "ran on the vendor's CPU mode",
    "ran on an emulation",
    "compiled only",
    "declared",
)
"""What a report may rest on, strongest first."""
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test."""

    test: str
    """Class and function."""
    level: int
    outcome: str
    """passed, failed, skipped or expected (failed, as conformance.toml says)."""
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """All outcomes of one device."""

    subject: Subject
    outcomes: list[Outcome] = field(default_factory=list)
    evidence: str = EVIDENCE[0]

    def counts(self, level: int) -> Counter[str]:
        """Outcome -> how many tests of that level."""
        return Counter(o.outcome for o in self.outcomes if o.level == level)

    def highest_level(self) -> int | None:
        """The highest level that counts; one does when it and all below passed something and
        failed nothing. None: not even L0.
        """
        highest = None
        for level in range(len(LEVELS)):
            counts = self.counts(level)
            if not counts["passed"] or counts["failed"]:
                break
            highest = level
        return highest

    def badge(self) -> str:
        """The highest full level in one word: "L7", or "none"."""
        level = self.highest_level()
        return "none" if level is None else f"L{level}"

    def to_json(self) -> str:
        """The whole report, as `inferplane matrix` reads it."""
        subject, probe = self.subject, self.subject.probe
        source = subject.owner.source
        major, minor = INTERFACE_VERSION
        content = {
            "schema": SCHEMA,
            "device": subject.device,
            "badge": self.badge(),
            "plugin": {
                "name": source.name,
                "distribution": source.distribution,
                "version": source.version,
                "interface": list(subject.owner.interface or ()),
            },
            "core": {"version": __version__, "interface": [major, minor]},
            "probe": asdict(probe),
            "capabilities": asdict(subject.caps),
            "kind": "narrow" if subject.narrow else "wide",
            "features": features_of(subject),
            "evidence": self.evidence if (self.highest_level() or 0) >= 3 else "declared",
            "quick": subject.quick,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {"system": platform.system(), "processor": platform.machine()},
            "levels": {
                f"L{level}": {"name": name, **self.counts(level)}
                for level, name in enumerate(LEVELS)
            },
            "tests": [asdict(outcome) for outcome in self.outcomes],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """The JSON into a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")

    def lines(self) -> list[str]:
        """The verdict in a few lines for the terminal."""
        out = [f"device {self.subject.device}: {self.subject.probe.reason}"]
        for level, name in enumerate(LEVELS):
            counts = self.counts(level)
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            out.append(f"  L{level} {name:<10} {told or 'not run'}")
        extra = features_of(self.subject)["extra_names"]
        if extra:
            out.append(f"  public names the interface does not know: {extra}")
        return [*out, f"highest full level: {self.badge()}"]
