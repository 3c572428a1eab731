"""What docs/hardware.md names as proof exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_proof_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs/hardware.md").read_text()
    sources = [path.read_text() for path in (ROOT / "tests/plugins").rglob("*.py")]
    tests = {name for text in sources for name in re.findall(r"def (test_\w+)", text)}
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30 and named <= tests, named - tests
    files = set(re.findall(r"`((?:scripts|tests|plugins)/[\w./-]+)", page))
    assert files and all((ROOT / file).exists() for file in files), files
