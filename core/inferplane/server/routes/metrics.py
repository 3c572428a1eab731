"""GET /metrics, in the text format of Prometheus."""

from __future__ import annotations

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from inferplane.errors import EngineError
from inferplane.server.context import ServerContext
from inferplane.server.routing import ScopedRoute

__all__ = ["refresh", "routes"]

_WAIT_S = 1.0
"""A busy engine answers within a step; a dead one must not hold the scrape."""


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The route. Figures of the engine are fresh, or the last ones known."""

    async def metrics(request: Request) -> Response:
        await refresh(context)
        text = context.metrics.render()
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return [ScopedRoute("/metrics", metrics, methods=["GET"], scope="metrics", dialect="plain")]


async def refresh(context: ServerContext) -> None:
    """Take the engine's newest figures, if it tells them."""
    context.metrics.ready.set(1 if context.is_ready() else 0)
    if context.engine.info is None:
        return
    context.metrics.engine_info = context.engine.info
    try:
        async with asyncio.timeout(_WAIT_S):
            context.metrics.take(await context.engine.stats())
    except (TimeoutError, EngineError):
        return
