"""Python blocks of README and docs run, or say on the line before why they do not."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")])
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[object]:
    found = []
    for path in PAGES:
        for number, match in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8")), 1):
            name = f"{path.relative_to(ROOT)}:{number}"
            found.append(pytest.param(match[2], bool(match[1]), id=name))
    return found


@pytest.mark.parametrize(("code", "excused"), blocks())
def test_a_python_block_runs(code: str, excused: bool) -> None:
    compiled = compile(code, "<docs>", "exec")
    if not excused:
        exec(compiled, {"__name__": "__docs__"})


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []
