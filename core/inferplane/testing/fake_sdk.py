"""Write a fake vendor SDK to disk: modules with behaviour, metadata, device files.

On disk, so that a fresh interpreter or a spawned worker sees the same; a mock would hide drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_files", "write_sdk"]


def write_sdk(
    root: Path, modules: Mapping[str, str] | None = None, dists: Mapping[str, str] | None = None
) -> Path:
    """Make `root` an import path with these modules and installed distributions.

    modules: dotted name -> source of that package's `__init__.py`; parents are made empty.
    dists: distribution name -> version, with metadata and a RECORD of the modules' true sizes.
    Returns `root`.
    """
    root.mkdir(parents=True, exist_ok=True)
    for dotted, source in (modules or {}).items():
        folder = root
        for part in dotted.split("."):
            folder = folder / part
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / "__init__.py").write_text(source, encoding="utf-8")
    files = sorted(p for p in root.rglob("*.py") if p.is_file())
    record = "".join(f"{p.relative_to(root).as_posix()},,{p.stat().st_size}\n" for p in files)
    for name, version in (dists or {}).items():
        info = root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text, encoding="utf-8")
        (info / "RECORD").write_text(record, encoding="utf-8")
    return root


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Make `root` a file system with these files, as `/dev` and `/sys` show hardware.

    files: path relative to `root` -> content. Returns `root`.
    """
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root
