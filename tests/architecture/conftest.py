"""The tree as the architecture tests read it: every shipped Python file, parsed once."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Source:
    """One shipped Python file."""

    path: str
    """From the root of the repository, with slashes."""
    module: str
    """Dotted name."""
    text: str
    tree: ast.Module


def _module_name(folder: Path, path: Path) -> str:
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def distributions() -> dict[str, Path]:
    """Import name -> folder that is on the import path, for every distribution."""
    folders = [ROOT / "core", *sorted((ROOT / "plugins").iterdir())]
    return {
        package.parent.name: folder
        for folder in folders
        for package in sorted(folder.glob("inferplane*/__init__.py"))
    }


@pytest.fixture(scope="session")
def sources(distributions: dict[str, Path]) -> list[Source]:
    """Every Python file that is shipped."""
    found = []
    for package, folder in distributions.items():
        for path in sorted((folder / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(ROOT).as_posix()
            found.append(Source(name, _module_name(folder, path), text, ast.parse(text, name)))
    return found
