"""The connection guard: deadlines, caps and body limits below HTTP, where the server has none.

A subclass of uvicorn's httptools protocol. Whatever it refuses gets an error body and is counted.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inferplane.server.errors import ApiError, error_body, error_headers
from inferplane.server.limits import Limits
from inferplane.server.probe_states import PROBES

__all__ = ["Guard", "GuardedProtocol"]

_logger = logging.getLogger("inferplane.server")
_LOOPBACK = ("127.", "::1", "::ffff:127.")
_BODY_SLACK_BYTES = 64 * 1024
_OWN_FILES = 128
"""Descriptors for all but connections: sockets of children, files, the database, new refusals."""
_UPLOADS = ("/v1/files", "/v1/audio/transcriptions", "/v1/audio/translations")
"""Where bodies may be as large as files."""


@dataclass(slots=True)
class Guard:
    """What the connections of one server share."""

    limits: Limits
    on_refusal: Callable[[str], None]
    """Told the wire code of each connection ended by a limit."""
    per_address: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Let no more in than descriptors last for: who has none cannot even be refused."""
        most = _open_files() - self.limits.probe_connections - _OWN_FILES
        if most < self.limits.connections:
            _logger.warning("only %d connections at once: raise the limit of open files", most)
            self.limits = replace(self.limits, connections=max(1, most))

    def protocol(self, *args: Any, **kwargs: Any) -> GuardedProtocol:
        """For uvicorn's `http` setting."""
        return GuardedProtocol(self, *args, **kwargs)


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, guard: Guard, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guard = guard
        self.limits = guard.limits
        self._address = ""
        self._probes_only = False
        self._refusal: ApiError | None = None
        self._requests = 0
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._field_bytes = 0
        self._body_bytes = 0
        self._most_bytes = 0
        self._body_began = self._body_last = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit it, for probes alone when there are many, or not at all."""
        super().connection_made(transport)
        number = len(self.connections)
        if number > self.limits.connections + self.limits.probe_connections:
            self._refuse(_too_many("there are too many connections"))
            return
        self._probes_only = number > self.limits.connections or not self._address_admitted()
        self._head_timer = self.loop.call_later(self.limits.header_deadline_s, self._head_is_late)

    def _address_admitted(self) -> bool:
        host = self.client[0] if self.client else ""
        if not host or host.startswith(_LOOPBACK):
            return True
        self._address = host
        self.guard.per_address[host] += 1
        return self.guard.per_address[host] <= self.limits.connections_per_address

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget its timers."""
        if self._address:
            self.guard.per_address[self._address] -= 1
            if not self.guard.per_address[self._address]:
                del self.guard.per_address[self._address]
            self._address = ""
        for timer in (self._head_timer, self._body_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count heads as they come: the parser would collect one of any size."""
        if self._refusal is not None:
            return
        if not self._in_body:
            self._head_bytes += len(data)
            if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
                self._arm_head()
        super().data_received(data)
        most = self.limits.header_bytes + self.limits.url_bytes
        if self._in_head and self._head_bytes > most and self._refusal is None:
            self._refuse(_large_headers(self.limits))

    def _arm_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_deadline_s, self._head_is_late)

    def on_message_begin(self) -> None:
        """A request line begins."""
        super().on_message_begin()
        self._in_head, self._field_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        """Bound the URL."""
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._stop(
                ApiError.of("uri_too_long", f"the URL exceeds {self.limits.url_bytes} bytes")
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound number and size of the headers."""
        super().on_header(name, value)
        self._field_bytes += len(name) + len(value) + 4
        if (
            len(self.headers) > self.limits.header_fields
            or self._field_bytes > self.limits.header_bytes
        ):
            self._stop(_large_headers(self.limits))

    def on_headers_complete(self) -> None:
        """The head is whole: from here on the body's deadlines hold."""
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if not self.url.startswith(b"/"):
            self._stop(ApiError.of("bad_request", "the request target must be a path"))
        path = self.url.partition(b"?")[0].decode("latin-1")
        if self._probes_only and path not in PROBES:
            self._stop(_too_many("there are too many connections"))
        self._requests += 1
        self._in_body = True
        self._body_bytes = 0
        upload = path in _UPLOADS
        self._most_bytes = self.limits.file_bytes if upload else self.limits.body_bytes
        self._body_began = self._body_last = self.loop.time()
        super().on_headers_complete()
        if self._requests >= self.limits.requests_per_connection:
            self.cycle.keep_alive = False
        self._body_timer = self.loop.call_later(self.limits.body_idle_s, self._look_at_body)

    def on_body(self, body: bytes) -> None:
        """Bound what is read although nobody may want it."""
        self._body_bytes += len(body)
        self._body_last = self.loop.time()
        if self._body_bytes > self._most_bytes + _BODY_SLACK_BYTES:
            self.guard.on_refusal("body_too_large")
            self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        super().on_message_complete()
        self._in_body = False
        self._head_bytes = 0
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_stall_s, self._write_stalls)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """The parser gave up: what a limit refused, or no HTTP."""
        self._refuse(self._refusal or ApiError.of("bad_request", "this is not HTTP"))

    def _stop(self, error: ApiError) -> None:
        """Refuse from inside a parser's callback."""
        self._refusal = error
        raise ValueError(error.code)  # the parser turns it into its own error

    def _refuse(self, error: ApiError) -> None:
        self._refusal = error
        self.guard.on_refusal(error.code)
        if self.transport.is_closing():
            return
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started
        if not answering or (cycle.response_complete and not self._in_body):
            self.transport.write(_raw_answer(error))
        self.transport.close()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            late = f"the request's head took longer than {self.limits.header_deadline_s:g} s"
            self._refuse(ApiError.of("request_timeout", late))
        else:  # nothing was ever asked, so there is nothing to answer
            self.transport.close()

    def _look_at_body(self) -> None:
        limits, now = self.limits, self.loop.time()
        if self.flow.read_paused:  # it waits for us
            self._body_last = now
        idle, whole = now - self._body_last, now - self._body_began
        if idle >= limits.body_idle_s or whole >= limits.body_deadline_s:
            self._body_timer = None
            self._refuse(ApiError.of("request_timeout", "the request's body came too slowly"))
            return
        wait = min(limits.body_idle_s - idle, limits.body_deadline_s - whole)
        self._body_timer = self.loop.call_later(max(wait, 0.01), self._look_at_body)

    def _write_stalls(self) -> None:
        self._write_timer = None
        self.guard.on_refusal("write_stall")
        self.transport.abort()


def _open_files() -> int:
    """How many files this process may have open, once it has been allowed all that it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def _too_many(message: str) -> ApiError:
    return ApiError.of("too_many_connections", message)


def _large_headers(limits: Limits) -> ApiError:
    return ApiError.of(
        "headers_too_large",
        f"headers exceed {limits.header_bytes} bytes or {limits.header_fields} fields",
    )


def _raw_answer(error: ApiError) -> bytes:
    body = error_body(error, "openai", secrets.token_hex(16))
    status = HTTPStatus(error.status)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error_headers(error),
    }
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body
