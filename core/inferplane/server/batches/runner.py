"""Batches under way: from a file of requests to files of results, also after a restart."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jiter

from inferplane.server.auth import Caller
from inferplane.server.batches.lines import BatchLine, LineRunner, failed_line, read_lines
from inferplane.server.context import ServerContext
from inferplane.server.stored.batches import StoredBatches
from inferplane.server.stored.files import StoredFiles

__all__ = ["WINDOW_S", "BatchRunner", "new_batch"]

WINDOW_S = 24 * 3600
_UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
_EXPIRED = {"code": "batch_expired", "message": "the batch's completion window was over"}
_CANCELLED = {"code": "batch_cancelled", "message": "the batch was cancelled"}


def new_batch(found: Mapping[str, Any]) -> dict[str, Any]:
    """The object of a batch that begins now, from checked fields."""
    now = int(time.time())
    stages = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling")
    return {
        "id": "batch_" + secrets.token_hex(16),
        "object": "batch",
        "endpoint": found["endpoint"],
        "errors": None,
        "input_file_id": found["input_file_id"],
        "completion_window": found["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": now + WINDOW_S,
        **{f"{stage}_at": None for stage in (*stages, "cancelled")},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": found.get("metadata"),
    }


class BatchRunner:
    """Runs the batches of one server."""

    def __init__(self, context: ServerContext, files: StoredFiles, batches: StoredBatches) -> None:
        self.context = context
        self.files = files
        self.batches = batches
        self._lines = LineRunner(
            context.inner_gate, context.limits.batch_at_once, context.note_failure
        )
        self._live: dict[str, dict[str, Any]] = {}
        self._cancelled: dict[str, asyncio.Event] = {}

    def count(self, owner: str) -> int:
        """Batches of that key under way."""
        return sum(batch["owner"] == owner for batch in self._live.values())

    def live(self, owner: str, id: str) -> dict[str, Any] | None:
        """The object of a batch under way."""
        found = self._live.get(id)
        return found["object"] if found is not None and found["owner"] == owner else None

    def start(self, owner: str, batch: dict[str, Any]) -> None:
        """Begin, or go on where an earlier server was."""
        self._live[batch["id"]] = {"owner": owner, "object": batch}
        self._cancelled[batch["id"]] = asyncio.Event()
        if batch["status"] == "cancelling":
            self._cancelled[batch["id"]].set()
        self.batches.put(owner, batch)
        self.context.spawn(self._run(owner, batch))

    async def resume(self) -> None:
        """Go on with what was under way when the last server ended."""
        for owner, batch in await self.batches.all():
            if batch["status"] in _UNDER_WAY:
                self.start(owner, batch)

    def cancel(self, owner: str, batch: dict[str, Any]) -> None:
        """End a batch; what is done stays."""
        self._stage(owner, batch, "cancelling")
        self._cancelled[batch["id"]].set()

    async def _run(self, owner: str, batch: dict[str, Any]) -> None:
        try:
            await self._work(owner, batch)
        except Exception as error:
            self.context.note_failure(batch["id"], error)
            self._fail(owner, batch, [{"code": "internal_error", "message": "the server failed"}])
        finally:
            self._live.pop(batch["id"], None)
            self._cancelled.pop(batch["id"], None)

    async def _work(self, owner: str, batch: dict[str, Any]) -> None:
        file = await self.files.get(owner, batch["input_file_id"])
        if file is None:
            gone = {"code": "file_not_found", "message": "the input file is gone"}
            self._fail(owner, batch, [gone])
            return
        most = self.context.limits.batch_lines
        data = await asyncio.to_thread(self.files.path(file.id).read_bytes)
        lines, errors = await asyncio.to_thread(read_lines, data, (batch["endpoint"],), most)
        if errors:
            self._fail(owner, batch, [error.object() for error in errors])
            return
        batch["request_counts"]["total"] = len(lines)
        if batch["status"] == "validating":
            self._stage(owner, batch, "in_progress")
        await self._results(owner, batch, lines)

    async def _results(self, owner: str, batch: dict[str, Any], lines: Sequence[BatchLine]) -> None:
        paths = self.batches.work_files(batch["id"])
        done = [await asyncio.to_thread(_done, path) for path in paths]
        counts = batch["request_counts"]
        counts["completed"], counts["failed"] = map(len, done)
        left = [line for line in lines if not any(line.custom_id in ids for ids in done)]
        with _appended(paths[0]) as output, _appended(paths[1]) as errors:
            skipped = await self._all(
                batch, left, Caller(owner, frozenset(("infer",))), output, errors
            )
            end = "cancelled" if self._cancelled[batch["id"]].is_set() else "expired"
            if skipped:
                reason = _CANCELLED if end == "cancelled" else _EXPIRED
                errors.writelines(failed_line(line, reason) for line in skipped)
                counts["failed"] += len(skipped)
        self._stage(owner, batch, "finalizing")
        for kind, path in zip(("output", "error"), paths, strict=True):
            if path.stat().st_size:
                title = f"{batch['id']}_{kind}.jsonl"
                made = await self.files.adopt(owner, title, "batch_output", path)
                batch[f"{kind}_file_id"] = made.id
            else:
                path.unlink()
        cancelled = self._cancelled[batch["id"]].is_set()
        self._stage(owner, batch, end if skipped or cancelled else "completed")

    async def _all(
        self,
        batch: dict[str, Any],
        lines: Sequence[BatchLine],
        caller: Caller,
        output: IO[bytes],
        errors: IO[bytes],
    ) -> list[BatchLine]:
        """Run every line; those that were not run before the end of the batch's time."""
        counts = batch["request_counts"]
        waiting = dict.fromkeys(lines)

        async def one(line: BatchLine) -> None:
            good, told = await self._lines.run(line, caller)
            (output if good else errors).write(told)
            counts["completed" if good else "failed"] += 1
            del waiting[line]

        cancel = asyncio.create_task(self._cancelled[batch["id"]].wait())
        tasks = {asyncio.create_task(one(line)) for line in lines}
        try:
            async with asyncio.timeout(max(0.0, batch["expires_at"] - time.time())):
                while any(not task.done() for task in tasks) and not cancel.done():
                    await asyncio.wait({*tasks, cancel}, return_when=asyncio.FIRST_COMPLETED)
                    tasks = {task for task in tasks if not _raised(task)}
        except TimeoutError:
            pass
        finally:
            for task in (*tasks, cancel):
                task.cancel()
            await asyncio.gather(*tasks, cancel, return_exceptions=True)
        return list(waiting)

    def _stage(self, owner: str, batch: dict[str, Any], status: str) -> None:
        batch["status"] = status
        batch[f"{status}_at"] = int(time.time())
        self.batches.put(owner, batch)

    def _fail(
        self, owner: str, batch: dict[str, Any], errors: Sequence[Mapping[str, object]]
    ) -> None:
        batch["errors"] = {"object": "list", "data": list(errors)}
        self._stage(owner, batch, "failed")


def _raised(task: asyncio.Task[None]) -> bool:
    """Whether the task is over; raises what it raised."""
    if task.done():
        task.result()
    return task.done()


def _appended(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", 0)


def _done(path: Path) -> set[str]:
    """custom_ids of the whole lines of a work file; what was cut off is taken away."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return {str(jiter.from_json(line)["custom_id"]) for line in data[:whole].splitlines()}
