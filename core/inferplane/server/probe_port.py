"""Probes on a port and thread of their own: answered whatever the server's loop is doing.

Speaks just enough HTTP/1.1 for a GET without a body; one answer a connection, with a deadline.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.probe_states import PROBES, probe_checks, probe_facts

__all__ = ["ProbePort"]

_HEAD_BYTES = 8192
_DEADLINE_S = 5.0
_CONNECTIONS = 256
_SILENT_S = 30.0
"""A server's loop that has not turned for so long is dead."""


class ProbePort:
    """Tells what the server knows, and whether its loop still turns (`beat`)."""

    def __init__(
        self,
        context: ServerContext,
        listener: socket.socket,
        *,
        silent_s: float = _SILENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._listener = listener
        self._checks = probe_checks(context)
        self._silent_s = silent_s
        self._clock = clock
        self._beat = clock()
        self._loop = asyncio.new_event_loop()
        self._open = 0
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def beat(self) -> None:
        """The server's loop turned."""
        self._beat = self._clock()

    def close(self) -> None:
        """Stop answering; returns when the thread has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._listener.close()

    def answer(self, line: bytes) -> bytes:
        """The whole answer to a request line."""
        method, _, rest = line.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if method not in (b"GET", b"HEAD") or not rest.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            return _message(400, b"")
        if path not in PROBES:
            return _message(404, b"")
        silent = self._clock() - self._beat
        dead = f"stalled: the server's loop has not turned for {silent:.0f} s"
        reason = dead if silent >= self._silent_s else self._checks[path]()
        body = encode(probe_facts(self._context, reason))
        return _message(503 if reason else 200, body, with_body=method == b"GET")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_server(
            lambda: _Connection(self), sock=self._listener, backlog=_CONNECTIONS
        )
        server = self._loop.run_until_complete(serving)
        self._loop.run_forever()
        server.close()
        self._loop.close()

    def admit(self) -> bool:
        """One more connection, if it may stay."""
        self._open += 1
        return self._open <= _CONNECTIONS

    def left(self) -> None:
        """One connection less."""
        self._open -= 1

    def after(self, work: Callable[[], None]) -> asyncio.TimerHandle:
        """Do something when a connection has lasted too long."""
        return self._loop.call_later(_DEADLINE_S, work)


class _Connection(asyncio.Protocol):
    """One request, one answer, then closed."""

    def __init__(self, port: ProbePort) -> None:
        self._port = port
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._deadline = self._port.after(transport.abort)
        if not self._port.admit():
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._end(self._port.answer(self._head.partition(b"\r\n")[0]))
        elif len(self._head) > _HEAD_BYTES:
            self._end(_message(431, b""))

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._port.left()

    def _end(self, answer: bytes) -> None:
        self._transport.write(answer)
        self._transport.close()


def _message(status: int, body: bytes, with_body: bool = True) -> bytes:
    """Status line, head and body."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n"
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        head += "retry-after: 1\r\n"
    return head.encode() + b"\r\n" + (body if with_body else b"")
