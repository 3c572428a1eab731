"""Uploaded files and results of batches: facts in the database, contents beside it.

A client's words never become part of a path: contents lie under ids that are made here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from inferplane.server.stored.state import State

__all__ = ["StoredFile", "StoredFiles", "TooMuch"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files(
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, made INTEGER NOT NULL, size INTEGER NOT NULL,
    name TEXT NOT NULL, purpose TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_of ON files(owner, made);
"""


class TooMuch(Exception):
    """A key has no room for another file."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of one file."""

    id: str
    owner: str
    made: int
    size: int
    name: str
    purpose: str

    def object(self) -> dict[str, object]:
        """As the API tells it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.made,
            "expires_at": None,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(slots=True)
class StoredFiles:
    """The store."""

    state: State
    most: int = 1000
    most_bytes: int = 1024 * 1024 * 1024
    """For all files of one key."""

    def path(self, id: str) -> Path:
        """Where the contents of a known file are."""
        return self.state.folder("files") / id

    async def add(self, owner: str, name: str, purpose: str, content: IO[bytes]) -> StoredFile:
        """Copy from an open file. Raises TooMuch."""
        id = "file-" + secrets.token_hex(16)
        size = content.seek(0, os.SEEK_END)
        made = StoredFile(id, owner, int(time.time()), size, name, purpose)

        def copy() -> None:
            content.seek(0)
            with os.fdopen(os.open(self.path(id), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                shutil.copyfileobj(content, file)

        await self.state.run(lambda connection: self._insert(connection, made))
        await self.state.do(copy)
        return made

    async def adopt(self, owner: str, name: str, purpose: str, source: Path) -> StoredFile:
        """Take over a file made here; it always has room."""
        id = "file-" + secrets.token_hex(16)
        size = source.stat().st_size
        made = StoredFile(id, owner, int(time.time()), size, name, purpose)
        await self.state.do(lambda: os.replace(source, self.path(id)))
        await self.state.run(lambda connection: self._insert(connection, made, bounded=False))
        return made

    def _insert(
        self, connection: sqlite3.Connection, file: StoredFile, *, bounded: bool = True
    ) -> None:
        _prepare(connection)
        used = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM files WHERE owner=?"
        count, size = connection.execute(used, (file.owner,)).fetchone()
        if bounded and (count >= self.most or size + file.size > self.most_bytes):
            raise TooMuch
        row = (file.id, file.owner, file.made, file.size, file.name, file.purpose)
        connection.execute("INSERT INTO files VALUES(?,?,?,?,?,?)", row)

    async def get(self, owner: str, id: str) -> StoredFile | None:
        """One file of that key."""

        def work(connection: sqlite3.Connection) -> StoredFile | None:
            _prepare(connection)
            found = connection.execute(
                "SELECT * FROM files WHERE id=? AND owner=?", (id, owner)
            ).fetchone()
            return None if found is None else _file(found)

        return await self.state.run(work)

    async def all(self, owner: str) -> list[StoredFile]:
        """Every file of that key, the newest first."""

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            _prepare(connection)
            order = "SELECT * FROM files WHERE owner=? ORDER BY made DESC, rowid DESC"
            return [_file(row) for row in connection.execute(order, (owner,))]

        return await self.state.run(work)

    async def delete(self, owner: str, id: str) -> bool:
        """Whether there was such a file."""

        def work(connection: sqlite3.Connection) -> bool:
            _prepare(connection)
            gone = connection.execute("DELETE FROM files WHERE id=? AND owner=?", (id, owner))
            return gone.rowcount > 0

        if not await self.state.run(work):
            return False
        await self.state.do(lambda: self.path(id).unlink(missing_ok=True))
        return True


def _prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(_SCHEMA)


def _file(row: sqlite3.Row) -> StoredFile:
    return StoredFile(*(row[n] for n in ("id", "owner", "made", "size", "name", "purpose")))
