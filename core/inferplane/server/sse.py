"""Server-sent events by raw ASGI: one send for each event, no layers in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.front_door import as_api_error
from inferplane.server.generation import Choice, Generation
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["EventStream", "StreamedAnswer"]

_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class StreamedAnswer(Protocol):
    """An answer that can be told in frames."""

    media_type: bytes
    terminal: bytes
    """Ends the stream, also after a failure."""
    ping: bytes
    """Fills silence; empty where the dialect has nothing for it."""

    def begin(self) -> bytes:
        """Frames before anything is made."""
        ...

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Frames for what is new of one choice."""
        ...

    def end(self) -> bytes:
        """Frames after the last choice's end, before the terminal mark."""
        ...

    def failure(self, error: ApiError, request_id: str) -> bytes:
        """Frames of a failure, before the terminal mark."""
        ...


class EventStream(Response):
    """Sends an admitted generation. Ends in exactly one terminal mark; a failure is one error frame
    before it. The client's leaving ends the generation."""

    def __init__(
        self,
        generation: Generation,
        answer: StreamedAnswer,
        *,
        headers: Mapping[str, str],
        ping_s: float,
        on_failure: Callable[[str, BaseException], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(headers=headers)
        self.generation = generation
        self.answer = answer
        self.ping_s = ping_s
        self.on_failure = on_failure
        self.on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await unless_client_leaves(receive, self._send_all(scope, send))
        finally:
            self.generation.close()
            self.on_end()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        kind = (b"content-type", self.answer.media_type)
        headers = [kind, *_HEADERS, *(h for h in self.raw_headers if h[0] != b"content-length")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with _Pings(send, self.answer.ping, self.ping_s) as pings:
            try:
                async for data in self._frames():
                    pings.spoken()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                last = self.answer.end() + self.answer.terminal
            except Exception as error:
                last = self._failure(scope, error) + self.answer.terminal
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _frames(self) -> AsyncIterator[bytes]:
        if begun := self.answer.begin():
            yield begun
        async for choice, delta in self.generation.events():
            if data := self.answer.delta(choice, delta):
                yield data

    def _failure(self, scope: Scope, error: Exception) -> bytes:
        state = scope["state"]
        known = as_api_error(error)
        if known is None:
            self.on_failure(state["request_id"], error)
            known = ApiError.of("internal_error", "the server failed; its log has the reason")
        state["facts"]["code"] = known.code
        return self.answer.failure(known, state["request_id"])


class _Pings:
    """Fills silence, from one timer that looks back instead of being reset."""

    def __init__(self, send: Send, ping: bytes, every_s: float) -> None:
        self.send = send
        self.ping = ping
        self.every_s = every_s
        self.loop = asyncio.get_running_loop()
        self.last = self.loop.time()
        self.timer: asyncio.TimerHandle | None = None
        self.sending: asyncio.Task[None] | None = None

    def __enter__(self) -> _Pings:
        self.timer = self.loop.call_later(self.every_s, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.sending is not None:
            self.sending.cancel()

    def spoken(self) -> None:
        """Something was sent."""
        self.last = self.loop.time()

    def _look(self) -> None:
        silent = self.loop.time() - self.last
        if self.ping and silent >= self.every_s and (self.sending is None or self.sending.done()):
            self.sending = asyncio.ensure_future(self._ping())
            self.last = self.loop.time()
            silent = 0.0
        self.timer = self.loop.call_later(max(self.every_s - silent, 0.01), self._look)

    async def _ping(self) -> None:
        await self.send({"type": "http.response.body", "body": self.ping, "more_body": True})
