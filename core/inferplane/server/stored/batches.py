"""Batches as they were last known; what they have made so far lies in files."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from inferplane.server.stored.state import State

__all__ = ["StoredBatches"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches(
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, made INTEGER NOT NULL, object BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS batches_of ON batches(owner, made);
"""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class StoredBatches:
    """The store."""

    state: State

    def put(self, owner: str, batch: dict[str, Any]) -> None:
        """Store or replace; what is asked for from now on finds it."""
        row = (batch["id"], owner, batch["created_at"], _encode(batch))

        def work(connection: sqlite3.Connection) -> None:
            connection.executescript(_SCHEMA)
            connection.execute(
                "INSERT INTO batches VALUES(?,?,?,?) "
                "ON CONFLICT(id) DO UPDATE SET object=excluded.object",
                row,
            )

        self.state.post(work)

    async def all(self, owner: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(owner, batch) of one key or of all, the newest first."""

        def work(connection: sqlite3.Connection) -> list[tuple[str, dict[str, Any]]]:
            connection.executescript(_SCHEMA)
            rows = connection.execute(
                "SELECT owner, object FROM batches WHERE ?1 IS NULL OR owner=?1 "
                "ORDER BY made DESC, rowid DESC",
                (owner,),
            )
            return [(row["owner"], _decode(row["object"])) for row in rows]

        return await self.state.run(work)

    async def get(self, owner: str, id: str) -> dict[str, Any] | None:
        """One batch of that key."""

        def work(connection: sqlite3.Connection) -> dict[str, Any] | None:
            connection.executescript(_SCHEMA)
            found = connection.execute(
                "SELECT object FROM batches WHERE id=? AND owner=?", (id, owner)
            ).fetchone()
            return None if found is None else _decode(found["object"])

        return await self.state.run(work)

    def work_files(self, id: str) -> tuple[Path, Path]:
        """Where a batch under way collects what succeeded and what failed."""
        folder = self.state.folder("batches")
        return folder / f"{id}.output.jsonl", folder / f"{id}.error.jsonl"
