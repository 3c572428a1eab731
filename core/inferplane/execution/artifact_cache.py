"""Compiled programs on disk: whole entries only, one writer at a time, no failures remembered.

Layout `<root>/<plugin>/<fingerprint>/<model>/<entry>`; what is temporary starts with a dot.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from inferplane.interfaces import ArtifactCache

__all__ = ["DiskCache"]

_logger = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DiskCache(ArtifactCache):
    """Entries of one fingerprint and model."""

    def __init__(self, folder: Path, wait: Callable[[], None] = lambda: time.sleep(0.2)) -> None:
        """`folder` is made when the first entry is stored; `wait` passes the time while another
        process writes.
        """
        self._folder = folder
        self._wait = wait

    def find(self, entry: str) -> Path | None:
        """The stored file or folder, or None."""
        path = self._folder / entry
        return path if path.exists() else None

    def store(self, entry: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a temporary path, sync it, and rename it to `entry`.

        Waits while another living process writes the same entry, and then takes its result. An
        entry that exists is replaced only if `write` is called, so a reader never sees half of one.
        What `write` raises leaves no entry and comes through.
        """
        path = self._folder / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _age(path)
        with _locked(path.with_name(f".{path.name}.lock"), self._wait):
            if _age(path) != before:  # somebody wrote it while this process waited
                return path
            temporary = path.with_name(f".{path.name}.{uuid4().hex}")
            try:
                write(temporary)
                _sync(temporary)
                _replace(temporary, path)
            except BaseException:
                _logger.warning("no cache entry %s: writing it failed", path)
                _remove(temporary)
                raise
        return path


@contextmanager
def _locked(lock: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold `lock`, which names its owner by pid and boot; a dead owner's lock is broken."""
    owner = json.dumps({"pid": os.getpid(), "boot": _boot_id()})
    while not _take(lock, owner):
        held = _owner_of(lock)
        if held is not None and not _lives(held):
            _logger.warning("breaking %s: its owner %s is gone", lock, held)
            _break(lock, held)
        else:
            wait()
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _take(lock: Path, owner: str) -> bool:
    """Make the lock with its content in one step: a link never shows an empty file."""
    mine = lock.with_name(f"{lock.name}.{uuid4().hex}")
    mine.write_text(owner)
    try:
        os.link(mine, lock)
    except FileExistsError:
        return False
    else:
        return True
    finally:
        mine.unlink()


def _owner_of(lock: Path) -> str | None:
    try:
        return lock.read_text()
    except FileNotFoundError:
        return None  # just released


def _lives(owner: str) -> bool:
    try:
        parts = json.loads(owner)
        return bool(parts["boot"] == _boot_id() and _is_alive(parts["pid"]))
    except (ValueError, KeyError, TypeError):
        return False


def _break(lock: Path, owner: str) -> None:
    """Remove the lock unless somebody else broke it first and holds it now."""
    aside = lock.with_name(f"{lock.name}.{uuid4().hex}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if aside.read_text() != owner:
        os.link(aside, lock)
    aside.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else -1


def _sync(path: Path) -> None:
    for part in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(temporary: Path, path: Path) -> None:
    if path.is_dir():  # a folder cannot be renamed onto one that has content
        old = path.with_name(f".{path.name}.{uuid4().hex}")
        path.rename(old)
        _remove(old)
    temporary.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
