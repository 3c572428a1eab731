"""GET /version, and one line of text at /."""

from __future__ import annotations

from importlib import metadata

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from inferplane.interfaces import INTERFACE_VERSION
from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.routing import ScopedRoute

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Both routes."""
    version = metadata.version("inferplane")

    async def tell(request: Request) -> Response:
        info = context.engine.info
        body = {
            "version": version,
            "interface": ".".join(map(str, INTERFACE_VERSION)),
            "device": None if info is None else info.device,
            "plugin": None if info is None else f"{info.plugin} {info.plugin_version}",
        }
        return Response(encode(body), media_type="application/json")

    async def root(request: Request) -> Response:
        return PlainTextResponse(
            f"Inferplane {version} serves {context.card.name}; the API begins at /v1\n"
        )

    return [
        ScopedRoute("/version", tell, methods=["GET"], scope="infer", dialect="plain"),
        ScopedRoute("/", root, methods=["GET"], scope="infer", dialect="plain"),
    ]
