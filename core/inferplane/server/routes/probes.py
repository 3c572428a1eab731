"""GET /livez, /startupz, /readyz and /health: open to all, told from what is known already."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.errors import ApiError
from inferplane.server.lifecycle import phase_of
from inferplane.server.routing import Endpoint, ScopedRoute

__all__ = ["PROBES", "routes"]

PROBES = ("/livez", "/startupz", "/readyz", "/health")
"""Paths that need no key and get a connection even when others do not."""


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Four routes."""
    checks: dict[str, Callable[[], str]] = {
        "/livez": lambda: "",
        "/startupz": lambda: "" if context.has_started() else "starting",
        "/readyz": context.unready_because,
        "/health": context.unhealthy_because,
    }

    def probe(check: Callable[[], str]) -> Endpoint:
        async def answer(request: Request) -> Response:
            return _told(context, request, check())

        return answer

    return [
        ScopedRoute(path, probe(checks[path]), methods=["GET"], scope="open", dialect="plain")
        for path in PROBES
    ]


def _told(context: ServerContext, request: Request, reason: str) -> Response:
    status = context.engine.status
    pct = round(100 * status.done / status.total) if status.total else None
    eta_s = context.eta_s()
    ready = context.lifecycle.ready_since if context.has_started() else None
    until = time.monotonic() if ready is None else ready
    body: dict[str, object] = {
        "status": reason or "ok",
        "phase": "draining" if context.lifecycle.draining else phase_of(status.phase),
        "pct": 100 if ready is not None else pct,
        "elapsed_s": round(until - context.lifecycle.began, 1),
        "eta_s": None if eta_s is None or ready is not None else round(eta_s, 1),
    }
    if _knows_key(context, request):
        body["detail"] = _detail(context)
    headers = {"retry-after": "1"} if reason else {}
    return Response(
        encode(body), 503 if reason else 200, headers=headers, media_type="application/json"
    )


def _knows_key(context: ServerContext, request: Request) -> bool:
    if not context.keys.keys:
        return True
    try:
        context.keys.caller(request.headers, "infer", counted=False)
    except ApiError:
        return False
    return True


def _detail(context: ServerContext) -> dict[str, object]:
    info = context.engine.info
    stats = context.metrics.engine_stats
    return {
        "device": None if info is None else info.device,
        "plugin": None if info is None else f"{info.plugin} {info.plugin_version}",
        "loading": context.engine.status.detail or None,
        "fallbacks": dict(stats.fallbacks),
        "running": stats.running,
        "waiting": stats.waiting,
    }
