"""The failure cases of docs/reliability.md are those that tests and mutants carry."""

from __future__ import annotations

import re
from pathlib import Path

from inferplane.testing.simulation.violation import INVARIANTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def carried() -> set[str]:
    """Names in the markers of tests and in the lists of mutants."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        found |= set(re.findall(r"mark\.case\(\s*\"([a-z-]+)\"", path.read_text()))
    for path in (ROOT / "tests").rglob("*.toml"):
        found |= set(re.findall(r"^case = \"([a-z-]+)\"", path.read_text(), re.MULTILINE))
    return found


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_each_case_that_a_test_carries_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", section("Failure cases"), re.MULTILINE)
    assert sorted(rows) == sorted(carried())


def test_each_invariant_of_the_simulation_is_documented() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", section("Simulation"), re.MULTILINE))
    assert {int(number): text for number, text in rows.items()} == dict(INVARIANTS)
