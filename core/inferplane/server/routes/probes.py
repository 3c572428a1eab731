"""GET /livez, /startupz, /readyz and /health: open to all, told from what is known already."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.errors import ApiError
from inferplane.server.probe_states import PROBES, probe_checks, probe_facts
from inferplane.server.routing import Endpoint, ScopedRoute

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Four routes."""
    checks = probe_checks(context)

    def probe(check: Callable[[], str]) -> Endpoint:
        async def answer(request: Request) -> Response:
            return _told(context, request, check())

        return answer

    return [
        ScopedRoute(path, probe(checks[path]), methods=["GET"], scope="open", dialect="plain")
        for path in PROBES
    ]


def _told(context: ServerContext, request: Request, reason: str) -> Response:
    body = probe_facts(context, reason)
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
