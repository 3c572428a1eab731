"""A request from inside: the same routes and handlers, without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.routing import Match
from starlette.types import Message, Receive, Scope

from inferplane.server.auth import Caller
from inferplane.server.errors import ApiError, error_body, error_headers
from inferplane.server.front_door import as_api_error
from inferplane.server.routing import GatedRouter, ScopedRoute

__all__ = ["InnerAnswer", "inner_call"]


@dataclass(frozen=True, slots=True)
class InnerAnswer:
    """What a handler answered."""

    status: int
    body: bytes
    retry_after_s: float = 0.0
    """How long to wait before asking again, where that may help."""


async def inner_call(
    gate: GatedRouter,
    path: str,
    body: bytes,
    caller: Caller,
    request_id: str,
    on_failure: Callable[[str, BaseException], None],
) -> InnerAnswer:
    """POST a JSON body to one of our routes in the name of `caller`. Never raises for an answer
    that is an error; ending the task that waits for it ends the request."""
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "state": {
            "request_id": request_id,
            "dialect": "openai",
            "route": path,
            "facts": {},
            "began": time.monotonic(),
            "caller": caller,
        },
    }
    route, child = _route(gate, scope)
    scope.update(child)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await route.handle(scope, _receiver(body), send)
    except Exception as error:
        return _failed(error, request_id, on_failure)
    parts = [message.get("body", b"") for message in sent[1:]]
    return InnerAnswer(sent[0]["status"], b"".join(parts))


def _receiver(body: bytes) -> Receive:
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if given:
            return given.pop()
        await asyncio.Event().wait()  # this client never leaves
        raise AssertionError

    return receive


def _route(gate: GatedRouter, scope: Scope) -> tuple[ScopedRoute, Scope]:
    for route in gate.routes:
        match, child = route.matches(scope)
        if match is Match.FULL and isinstance(route, ScopedRoute):
            return route, dict(child)
    raise ApiError.of("route_not_found", "there is no such route")


def _failed(
    error: Exception, request_id: str, on_failure: Callable[[str, BaseException], None]
) -> InnerAnswer:
    known = as_api_error(error)
    if known is None:
        on_failure(request_id, error)
        known = ApiError.of("internal_error", "the server failed; its log has the reason")
    wait = error_headers(known).get("retry-after-ms", "0")
    return InnerAnswer(known.status, error_body(known, "openai", request_id), int(wait) / 1000)
