"""Responses that are made in the background: they outlive their request, not the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inferplane.server.answers.frames import encode
from inferplane.server.answers.responses import ResponseAnswer
from inferplane.server.context import ServerContext
from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.front_door import as_api_error
from inferplane.server.handling import Asked

__all__ = ["BackgroundRun", "BackgroundRuns", "FollowStream"]

_REPLAY_S = 300.0
"""How long the events of a finished run can be read again."""


class BackgroundRun:
    """One answer that is being made. `frames` holds its events if they were asked for."""

    def __init__(self, owner: str, request_id: str, answer: ResponseAnswer, stream: bool) -> None:
        self.owner = owner
        self.request_id = request_id
        self.answer = answer
        self.stream = stream
        self.frames: list[bytes] = []
        self.ended = False
        self._news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def tell(self, data: bytes, *, last: bool = False) -> None:
        """Hand frames to whoever follows."""
        if data and self.stream:
            self.frames += [part + b"\n\n" for part in data.split(b"\n\n") if part]
        self.ended = self.ended or last
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Until there are more frames, or no more to come."""
        await self._news.wait()

    def cancel(self) -> Mapping[str, Any]:
        """End it; the object as it is from now on."""
        if not self.ended:
            assert self.task is not None
            self.task.cancel()
            self.answer.generation.close()
            self.answer.cancel()
            self.tell(b"", last=True)
        return self.answer.object


class BackgroundRuns:
    """All of one server."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self._runs: dict[str, BackgroundRun] = {}

    def get(self, owner: str, id: str) -> BackgroundRun | None:
        """A run of that key that goes on or has ended a moment ago."""
        run = self._runs.get(id)
        return run if run is not None and run.owner == owner else None

    def drop(self, id: str) -> None:
        """End a run and forget it."""
        run = self._runs.pop(id, None)
        if run is not None:
            run.cancel()

    async def start(
        self, asked: Asked, answer: ResponseAnswer, headers: Mapping[str, str]
    ) -> Response:
        """Admit and begin; answers the queued object, or its events. Raises as admission does."""
        await answer.generation.admit()
        stream = asked.found.get("stream", False)
        run = BackgroundRun(asked.caller.name, asked.request_id, answer, stream)
        self._runs[answer.object["id"]] = run
        answer.store()
        told = encode(answer.object)
        run.task = self.context.spawn(self._follow(run))
        if stream:
            return FollowStream(run, 0, headers, self.context.limits.ping_s)
        return Response(told, media_type="application/json", headers=dict(headers))

    async def _follow(self, run: BackgroundRun) -> None:
        answer = run.answer
        try:
            run.tell(answer.begin())
            async for choice, delta in answer.generation.events():
                run.tell(answer.delta(choice, delta))
            last = answer.end()
        except Exception as error:
            known = as_api_error(error)
            if known is None:
                self.context.note_failure(run.request_id, error)
                known = ApiError.of("internal_error", "the server failed; its log has the reason")
            last = answer.failure(known, run.request_id)
        finally:
            answer.generation.close()
            asyncio.get_running_loop().call_later(_REPLAY_S, self._forget, run)
        run.tell(last, last=True)

    def _forget(self, run: BackgroundRun) -> None:
        self._runs.pop(run.answer.object["id"], None)


class FollowStream(Response):
    """The events of a run, from one of them on. The client's leaving ends nothing."""

    def __init__(
        self, run: BackgroundRun, first: int, headers: Mapping[str, str], ping_s: float
    ) -> None:
        super().__init__(headers=dict(headers), media_type="text/event-stream; charset=utf-8")
        self.run = run
        self.first = first
        self.ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await unless_client_leaves(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        run, told = self.run, self.first
        while True:
            data, told = b"".join(run.frames[told:]), max(told, len(run.frames))
            ended = run.ended
            if ended:
                break
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            elif not await _in_time(run, self.ping_s):
                ping = run.answer.ping
                await send({"type": "http.response.body", "body": ping, "more_body": True})
        last = data + run.answer.terminal
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _in_time(run: BackgroundRun, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await run.news()
    except TimeoutError:
        return False
    return True
