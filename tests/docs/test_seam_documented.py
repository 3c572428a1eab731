"""Every hook and every name of the seam is on its page; pages are generated, so none can be old."""

from __future__ import annotations

from pathlib import Path

from inferplane import interfaces
from inferplane.matrix import format_matrix, read_rows
from inferplane.registry import KINDS
from inferplane.testing.conformance.report import LEVELS
from inferplane.testing.seam_docs import hooks, seam

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_hook_is_documented() -> None:
    text = page("hooks.md")
    assert [kind for kind in KINDS if f"| `register_{kind}` |" not in text] == []


def test_every_name_of_the_seam_is_documented() -> None:
    headings = {line[4:] for line in page("interfaces.md").splitlines() if line.startswith("### ")}
    names = set(interfaces.__all__) - {"INTERFACE_VERSION"}
    assert names - headings == set() and headings - names == set()


def test_every_level_of_the_kit_is_documented() -> None:
    text = page("testing.md")
    for level, name in enumerate(LEVELS):
        assert f"| L{level} {name}" in text


def test_the_generated_pages_of_the_seam_are_what_the_code_says() -> None:
    assert hooks() in page("hooks.md"), "run scripts/docs"
    assert seam() in page("interfaces.md"), "run scripts/docs"


def test_the_compatibility_matrix_is_that_of_the_recorded_reports() -> None:
    rows = read_rows(ROOT / "docs/reports")
    assert format_matrix(rows, "markdown") in page("compatibility.md"), "run scripts/docs"
