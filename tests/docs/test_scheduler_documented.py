"""docs/scheduler.md numbers the behaviours that tests show, and no others."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_numbered_behaviour_has_a_test_and_every_such_test_a_number() -> None:
    page = (ROOT / "docs" / "scheduler.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"^\| (S\d+) \|", page, re.MULTILINE))
    rooms = ("core/scheduling", "core/engine", "execution")
    tests = (path for room in rooms for path in (ROOT / "tests" / room).glob("test_*.py"))
    shown = {
        number
        for path in tests
        for number in re.findall(r'behaviour\("(S\d+)"\)', path.read_text(encoding="utf-8"))
    }
    assert promised == shown


def test_every_file_of_the_room_is_named() -> None:
    page = (ROOT / "docs" / "scheduler.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "core/inferplane/scheduling").glob("[a-z]*.py")}
    files -= {"state.py", "plan.py", "sequence.py"}
    assert {name for name in files if f"`{name}`" not in page} == set()
