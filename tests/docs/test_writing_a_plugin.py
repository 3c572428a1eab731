"""The tutorial is a program: its files make a plugin, its commands run, its settings are valid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inferplane.testing.conformance.subject import Expectations

PAGE = Path(__file__).parents[2] / "docs/writing-a-plugin.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FAKE_PIP = """
set -euo pipefail
inferplane() { "$PYTHON" -m inferplane "$@"; }
pip() { export PYTHONPATH="$PWD/inferplane-acme" INFERPLANE_PLUGINS=inferplane_acme.plugin; }
"""


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(PAGE.read_text()) if kind == language]


def files() -> dict[str, str]:
    """Path -> content of the blocks whose first line is a path."""
    found = {}
    for text in blocks("python"):
        first, _, rest = text.partition("\n")
        if match := re.fullmatch(r"# (\S+\.py)", first):
            found[match[1]] = rest
    return found


@pytest.fixture
def bolt(tmp_path: Path) -> Path:
    """The plugin that the page builds, in a folder."""
    for name, text in files().items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "inferplane_bolt/__init__.py").touch()
    return tmp_path


def test_the_page_is_at_most_ten_pages_long() -> None:
    assert len(PAGE.read_text().splitlines()) <= 400


def test_every_block_has_a_language_that_something_here_runs() -> None:
    assert {kind for kind, _ in BLOCK.findall(PAGE.read_text())} == {"bash", "python", "toml"}


def test_the_commands_run_as_printed(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """`pip install` is replaced by an import path, and the default model by a tiny one."""
    (commands,) = blocks("bash")
    done = subprocess.run(
        ["bash", "-c", FAKE_PIP + commands],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "INFERPLANE_MODEL": str(tiny_model())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "wrote inferplane-acme" in done.stdout
    assert re.search(r"^acme .*active", done.stdout, re.MULTILINE)


def test_the_plugin_of_the_page_passes_the_kit(bolt: Path) -> None:
    """Its parts are few, so that levels 0 to 4 say nearly everything."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--inferplane-plugins=inferplane_bolt.plugin",
            "--inferplane-level=4",
            "--inferplane-quick",
            "tests",
        ],
        cwd=bolt,
        env={**os.environ, "PYTHONPATH": str(bolt), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_expected_failures_of_the_page_are_valid(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    path = tmp_path / "conformance.toml"
    path.write_text(text)
    read = Expectations.read(path)
    assert len(read.failures) == 1 and read.factors == {"attention": 2.0}
