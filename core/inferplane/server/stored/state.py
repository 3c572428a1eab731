"""The folder in which a server keeps its state, and the one thread that touches its database."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from inferplane.errors import ConfigError

__all__ = ["State"]

T = TypeVar("T")
_MEMORY = ":memory:"


class State:
    """One server's database and files.

    Work is done in the order in which it was given, on a thread of its own: what is put before
    something else is asked for is found by it.
    """

    def __init__(self, folder: Path | None, logger: logging.Logger) -> None:
        """Without a folder nothing outlives the server. Raises ConfigError for one that cannot be
        used or that another server uses."""
        self._logger = logger
        self._folder = folder
        self._temporary: Path | None = None
        self._lock = _claimed(folder) if folder is not None else None
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    @property
    def lasts(self) -> bool:
        """Whether it outlives the server."""
        return self._folder is not None

    def folder(self, name: str) -> Path:
        """A folder for files, made when it is first asked for; nobody else may read it."""
        root = self._folder
        if root is None:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="inferplane-"))
            root = self._temporary
        made = root / name
        made.mkdir(mode=0o700, exist_ok=True)
        return made

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run one transaction and wait for its result."""
        return await asyncio.wrap_future(self._submit(work))

    def post(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Run one transaction some time before whatever is asked for next; a failure is logged."""
        self._submit(work).add_done_callback(self._told)

    async def do(self, work: Callable[[], T]) -> T:
        """Run other work that must keep its place among the transactions."""
        return await asyncio.wrap_future(self._executor().submit(work))

    def _submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        return self._executor().submit(self._transaction, work)

    def _executor(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "inferplane-state")
        return self._thread

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._open()
        with self._connection as connection:
            return work(connection)

    def _open(self) -> sqlite3.Connection:
        where = _MEMORY if self._folder is None else str(self._folder / "state.sqlite")
        made = sqlite3.connect(where, check_same_thread=False)
        made.row_factory = sqlite3.Row
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=NORMAL")
        made.execute("PRAGMA foreign_keys=ON")
        return made

    def _told(self, future: Future[object]) -> None:
        if (error := future.exception()) is not None:
            self._logger.error("stored state was not written", exc_info=error)

    def close(self) -> None:
        """Finish what was given and let go. Idempotent."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _claimed(folder: Path) -> int:
    """An open lock file, held until it is closed or the process ends."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"state folder {folder}: {error.strerror}; --state names another"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ConfigError(
            f"state folder {folder} is used by another server; --state names another"
        ) from None
    return lock
