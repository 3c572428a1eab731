"""The outermost layer: request ids, refused shapes of requests, every failure as an error body.

Pure ASGI. Counts and logs each request once, when its answer has ended.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inferplane.errors import EngineError, RequestError
from inferplane.server.errors import CODES, ApiError, error_body, error_headers

__all__ = ["Ended", "FrontDoor", "RequestRules", "as_api_error"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BAD_PATH = re.compile(rb"//|\\|%00|%5c|(^|/)(\.|%2e){1,2}(/|%2f|$)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
_SLASHED_IDS = (b"/v1/models/",)
"""Below these, an id may hold an encoded slash."""
_LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))
_TRACE = ("traceparent", "tracestate")
_UNSAFE = frozenset(("POST", "PUT", "PATCH", "DELETE"))


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What requests must look like, whatever they ask."""

    root_path: str = ""
    loopback_hosts_only: bool = False
    """The Host must be a loopback name, so that no page gets in by DNS rebinding."""
    keyless: bool = False
    """No key guards: pages of foreign origins may not change anything either."""
    any_host: bool = False
    """On a UNIX socket the Host says nothing."""
    origins: tuple[str, ...] = ()
    """Exact origins; `http://localhost:*` allows every port."""


@dataclass(slots=True)
class Ended:
    """One finished request, for log and metrics."""

    request_id: str
    method: str
    route: str
    status: int
    seconds: float
    code: str
    facts: Mapping[str, object] = field(default_factory=dict)
    """What the route noted: tokens, finish reasons, key name."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The W3C headers of the caller's trace."""
    generated: object = None
    """What was generated, for traces."""


class FrontDoor:
    """Wraps the router.

    `on_end` is called once for each request; `on_failure` with each exception that nobody expected,
    so that only the log sees it.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: RequestRules,
        on_end: Callable[[Ended], None],
        on_failure: Callable[[str, BaseException], None],
    ) -> None:
        self.app = app
        self.rules = rules
        self.on_end = on_end
        self.on_failure = on_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            raise RuntimeError(f"unknown kind of connection {scope['type']!r}")


class _Exchange:
    """One request and its answer."""

    def __init__(self, door: FrontDoor, scope: Scope, receive: Receive, send: Send) -> None:
        self.door = door
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers = Headers(scope=scope)
        self.began = time.monotonic()
        self.status = 0
        self.extra: list[tuple[bytes, bytes]] = []
        self.request_id = self._request_id()
        self.state: dict[str, Any] = {
            "request_id": self.request_id,
            "dialect": "openai",
            "route": "unmatched",
            "facts": {},
            "began": self.began,
        }
        scope["state"] = {**scope.get("state", {}), **self.state}

    def _request_id(self) -> str:
        given = self.headers.getlist("x-request-id")
        if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
            return given[0]
        return secrets.token_hex(16)

    async def run(self) -> None:
        self.extra.append((b"x-request-id", self.request_id.encode()))
        code = ""
        try:
            self._check_shape()
            if not await self._answered_preflight():
                await self.door.app(self.scope, self.receive, self.send)
        except ClientDisconnect:
            code, self.status = "client_gone", self.status or 499
        except Exception as error:
            code = await self._fail(error)
        finally:
            self._end(code)

    async def _fail(self, error: Exception) -> str:
        known = as_api_error(error)
        if known is None:
            self.door.on_failure(self.request_id, error)
            known = ApiError.of("internal_error", "the server failed; its log has the reason")
        if not self.status:
            await self._send_error(known)
        return known.code

    def _end(self, code: str) -> None:
        state = self.scope["state"]
        self.door.on_end(
            Ended(
                self.request_id,
                self.scope["method"],
                state["route"],
                self.status or 500,
                time.monotonic() - self.began,
                code or state["facts"].get("code", ""),
                state["facts"],
                {name: self.headers[name] for name in _TRACE if name in self.headers},
                state.get("generated"),
            )
        )

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.scope["state"]["dialect"] == "anthropic":
                self.extra.append((b"request-id", self.request_id.encode()))
            message["headers"] = [*message.get("headers", ()), *self.extra]
        await self._send(message)

    async def _send_error(self, error: ApiError) -> None:
        body = error_body(error, self.scope["state"]["dialect"], self.request_id)
        headers = [(b"content-type", b"application/json")]
        headers += [(k.encode(), v.encode("latin-1")) for k, v in error_headers(error).items()]
        headers.append((b"content-length", str(len(body)).encode()))
        start = {"type": "http.response.start", "status": error.status, "headers": headers}
        await self.send(start)
        shown = b"" if self.scope["method"] == "HEAD" else body
        await self.send({"type": "http.response.body", "body": shown})

    def _check_shape(self) -> None:
        """Host, path and origin; nothing of it decides what the request may do."""
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        plain = raw.partition(b"?")[0]
        slashed = b"%2f" in plain.lower() and not plain.startswith(_SLASHED_IDS)
        if not plain.startswith(b"/") or slashed or _BAD_PATH.search(plain):
            raise ApiError.of("bad_request", "the path is not in its plain form")
        self._strip_root()
        if not self.door.rules.any_host:
            self._check_host()
        self._check_origin()

    def _strip_root(self) -> None:
        """Proxies send the prefix or drop it; routes never see it."""
        root = self.door.rules.root_path
        if root and self.scope["path"].startswith(root + "/"):
            self.scope["path"] = self.scope["path"][len(root) :]

    def _check_host(self) -> None:
        hosts = self.headers.getlist("host")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise ApiError.of("bad_request", "want exactly one Host header, with a plain name")
        name = re.sub(r":\d+$", "", hosts[0]).lower()
        if self.door.rules.loopback_hosts_only and name not in _LOOPBACK_HOSTS:
            raise ApiError.of(
                "host_not_allowed",
                "without a key this server answers to loopback names only",
                hint="call it as 127.0.0.1 or localhost, or set INFERPLANE_API_KEY",
            )

    def _check_origin(self) -> None:
        origin = self.headers.get("origin")
        if origin is None:
            return
        if _is_allowed(origin, self.door.rules.origins):
            self.extra += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", b"x-request-id, x-inferplane-warnings"),
                (b"vary", b"origin"),
            ]
            return
        same = origin.partition("://")[2] == self.headers.get("host")
        changes = self.scope["method"] in _UNSAFE and self.door.rules.keyless
        if not same and (changes or self._is_preflight()):
            raise ApiError.of(
                "origin_not_allowed",
                "pages of this origin may not call the server",
                hint="name the origin in --allowed-origins",
            )

    def _is_preflight(self) -> bool:
        return self.scope["method"] == "OPTIONS" and "access-control-request-method" in self.headers

    async def _answered_preflight(self) -> bool:
        """A preflight carries no key; it is answered here, for allowed origins alone."""
        if not self._is_preflight() or len(self.extra) == 1:
            return False
        self.extra += [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (
                b"access-control-allow-headers",
                b"authorization, content-type, x-api-key, x-request-id, x-inferplane-strict, "
                b"anthropic-version, anthropic-beta, traceparent, tracestate",
            ),
            (b"access-control-max-age", b"600"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": []})
        await self.send({"type": "http.response.body", "body": b""})
        return True


def _is_allowed(origin: str, allowed: tuple[str, ...]) -> bool:
    for one in allowed:
        if one == origin:
            return True
        if one.endswith(":*") and re.fullmatch(re.escape(one[:-1]) + r"\d{1,5}", origin):
            return True
    return False


def as_api_error(error: BaseException) -> ApiError | None:
    """The wire form of every error raised on purpose; None for the rest."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError) and error.code in CODES:
        return ApiError.of(error.code, str(error), error.param)
    if isinstance(error, EngineError) and error.code in CODES:
        return ApiError.of(error.code, _ENGINE_TEXTS.get(error.code, "the engine is not available"))
    return None


_ENGINE_TEXTS = {
    "model_loading": "the model is still loading",
    "draining": "the server is shutting down",
    "engine_restarting": "the engine is being restarted",
    "engine_dead": "the engine is not running",
}
