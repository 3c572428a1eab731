"""GET /openapi.json."""

from __future__ import annotations

from importlib import metadata

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.openapi import openapi_document
from inferplane.server.routing import ScopedRoute

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The route; routes of plugins that were loaded later are in the document too."""
    version = metadata.version("inferplane")

    async def tell(request: Request) -> Response:
        known = [r for r in context.inner_gate().routes if isinstance(r, ScopedRoute)]
        told = openapi_document(known, context.limits, version)
        return Response(encode(told), media_type="application/json")

    return [ScopedRoute("/openapi.json", tell, methods=["GET"], scope="infer", dialect="plain")]
