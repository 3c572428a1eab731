"""Stored responses: visible to the key that made them, bounded, and gone after a while."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from inferplane.server.stored.state import State

__all__ = ["StoredResponse", "StoredResponses"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses(
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, made REAL NOT NULL, size INTEGER NOT NULL,
    answer BLOB NOT NULL, items BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS responses_of ON responses(owner, made);
CREATE TABLE IF NOT EXISTS response_items(
    id TEXT NOT NULL, owner TEXT NOT NULL,
    response TEXT NOT NULL REFERENCES responses(id) ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS items_by_id ON response_items(id, owner);
CREATE INDEX IF NOT EXISTS items_by_response ON response_items(response);
"""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_UNFINISHED = ("queued", "in_progress")


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One answer, and everything the model was given for it."""

    answer: dict[str, Any]
    items: list[dict[str, Any]]

    def conversation(self) -> list[dict[str, Any]]:
        """What a request that follows it begins with."""
        return [*self.items, *self.answer["output"]]


@dataclass(slots=True)
class StoredResponses:
    """The store; each key has room of its own and loses its oldest answers first."""

    state: State
    most: int = 1000
    most_bytes: int = 64 * 1024 * 1024
    lasts_s: float = 3600.0
    _ready: bool = False

    def put(
        self, owner: str, answer: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store or replace an answer; what is asked for from now on finds it."""
        told, given = _encode(answer), _encode(items)
        ids = {one["id"] for one in (*items, *answer["output"]) if "id" in one}
        id, made = answer["id"], time.time()

        def work(connection: sqlite3.Connection) -> None:
            self._prepare(connection)
            connection.execute("DELETE FROM responses WHERE id=?", (id,))
            row = (id, owner, made, len(told) + len(given), told, given)
            connection.execute("INSERT INTO responses VALUES(?,?,?,?,?,?)", row)
            rows = [(one, owner, id) for one in ids]
            connection.executemany("INSERT INTO response_items VALUES(?,?,?)", rows)
            self._shrink(connection, owner)

        self.state.post(work)

    async def get(self, owner: str, id: str) -> StoredResponse | None:
        """One answer; None for one that is unknown, gone, or another key's."""

        def work(connection: sqlite3.Connection) -> StoredResponse | None:
            self._prepare(connection)
            found = connection.execute(
                "SELECT answer, items FROM responses WHERE id=? AND owner=? AND made>?",
                (id, owner, time.time() - self.lasts_s),
            ).fetchone()
            return None if found is None else _record(found)

        return await self.state.run(work)

    async def delete(self, owner: str, id: str) -> bool:
        """Whether there was such an answer."""

        def work(connection: sqlite3.Connection) -> bool:
            self._prepare(connection)
            found = connection.execute("DELETE FROM responses WHERE id=? AND owner=?", (id, owner))
            return found.rowcount > 0

        return await self.state.run(work)

    async def item(self, owner: str, id: str) -> dict[str, Any] | None:
        """One item of any stored answer of that key."""

        def work(connection: sqlite3.Connection) -> dict[str, Any] | None:
            self._prepare(connection)
            found = connection.execute(
                "SELECT answer, items FROM responses WHERE made>? AND id IN "
                "(SELECT response FROM response_items WHERE id=? AND owner=?) LIMIT 1",
                (time.time() - self.lasts_s, id, owner),
            ).fetchone()
            if found is None:
                return None
            items = _record(found).conversation()
            return next((one for one in items if one.get("id") == id), None)

        return await self.state.run(work)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._ready:
            return
        self._ready = True
        connection.executescript(_SCHEMA)
        for row in connection.execute("SELECT id, answer FROM responses").fetchall():
            answer = _decode(row["answer"])
            if answer["status"] in _UNFINISHED:  # the server that made it has ended
                error = {"code": "server_error", "message": "the server ended before the answer"}
                answer |= {"status": "failed", "error": error}
                update = "UPDATE responses SET answer=? WHERE id=?"
                connection.execute(update, (_encode(answer), row["id"]))

    def _shrink(self, connection: sqlite3.Connection, owner: str) -> None:
        """Drop what is too old, and the oldest of a key beyond its bounds."""
        oldest = time.time() - self.lasts_s
        connection.execute("DELETE FROM responses WHERE made<=?", (oldest,))
        connection.execute(
            "DELETE FROM responses WHERE id IN (SELECT id FROM ("
            "SELECT id, ROW_NUMBER() OVER newest AS place, SUM(size) OVER newest AS total "
            "FROM responses WHERE owner=? WINDOW newest AS (ORDER BY made DESC, rowid DESC)) "
            "WHERE place>? OR total>?)",
            (owner, self.most, self.most_bytes),
        )


def _record(row: sqlite3.Row) -> StoredResponse:
    return StoredResponse(_decode(row["answer"]), _decode(row["items"]))
