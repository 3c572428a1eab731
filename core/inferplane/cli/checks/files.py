"""Checks of the model cache: may be written, has room, holds nothing half or damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from inferplane.catalogue import read_catalogue
from inferplane.cli.checks.finding import Finding, Machine, fail, ok, skip, warn
from inferplane.cli.terminal import megabytes
from inferplane.config import DEFAULT_MODEL
from inferplane.model_wheel import sha256_of

__all__ = ["cache_room", "cache_writable", "cached_models", "half_downloads"]

_OTHER_CACHE = "name another folder: export INFERPLANE_CACHE=FOLDER"


def _existing(folder: Path) -> Path:
    """The folder or its nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def cache_writable(machine: Machine) -> Finding:
    """Models can be stored."""
    folder = _existing(machine.cache)
    if not folder.is_dir():
        return fail(f"{folder} is a file, the cache needs a folder", _OTHER_CACHE)
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(f"{folder} may not be written", f"{_OTHER_CACHE}, or: chmod u+rwx {folder}")
    return ok(f"{machine.cache} may be written")


def cache_room(machine: Machine) -> Finding:
    """The disk has room for the default model, or has it already."""
    entry = read_catalogue()[DEFAULT_MODEL]
    if _cached(machine, DEFAULT_MODEL) is not None:
        return ok(f"{DEFAULT_MODEL} is cached")
    needed = entry.size_bytes + entry.download_bytes
    free = shutil.disk_usage(_existing(machine.cache)).free
    if free < needed:
        return fail(
            f"{machine.cache}: {megabytes(free)} free, {DEFAULT_MODEL} needs {megabytes(needed)}",
            _OTHER_CACHE,
        )
    return ok(f"{megabytes(free)} free at {machine.cache}")


def half_downloads(machine: Machine) -> Finding:
    """No fetch was interrupted."""
    halves = sorted(machine.cache.glob("models/*/*/.fetch-*"))
    if halves:
        names = " ".join(f"'{half}'" for half in halves)
        return warn(
            f"{len(halves)} unfinished fetches take room; they are never used and the next fetch "
            "of that model removes them",
            f"rm -r {names}",
        )
    return ok("no unfinished fetches")


def cached_models(machine: Machine) -> Finding:
    """Cached models of the catalogue are what they were when fetched."""
    cached = {name: path for name in read_catalogue() if (path := _cached(machine, name))}
    damaged = [
        path for name, path in cached.items() if sha256_of(path) != read_catalogue()[name].sha256
    ]
    if damaged:
        names = " ".join(f"'{path}'" for path in damaged)
        return fail(f"damaged: {names}", f"rm {names}   (it is fetched again when needed)")
    if not cached:
        return skip("no model of the catalogue is cached")
    return ok(f"SHA-256 of {', '.join(cached)} is right")


def _cached(machine: Machine, name: str) -> Path | None:
    entry = read_catalogue()[name]
    path = machine.cache / "models" / name / entry.version / entry.file_name
    return path if path.is_file() else None
