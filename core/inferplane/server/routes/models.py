"""GET /v1/models and /v1/models/{id}: answered at once in every phase of start-up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext, own_name
from inferplane.server.routing import ScopedRoute

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Both routes; an id may hold slashes."""

    async def models(request: Request) -> Response:
        data = {"object": "list", "data": [_card(context)]}
        return Response(encode(data), media_type="application/json")

    async def model(request: Request) -> Response:
        context.card.resolve(request.path_params["id"])
        return Response(encode(_card(context)), media_type="application/json")

    return [
        ScopedRoute("/v1/models", models, methods=["GET"], scope="infer"),
        ScopedRoute("/v1/models/{id:path}", model, methods=["GET"], scope="infer"),
    ]


def _card(context: ServerContext) -> dict[str, object]:
    names = context.card.names
    loaded = context.loaded_model
    info = context.engine.info
    config = context.settings.launch.config
    return {
        "id": names[0],
        "object": "model",
        "created": context.card.created,
        "owned_by": "inferplane",
        "root": own_name(context.settings.model_source),
        "parent": None,
        "max_model_len": config.max_model_len if info is None else info.max_model_len,
        "aliases": list(names[1:]),
        "inferplane": {
            "state": _state(context),
            "tasks": [] if info is None else list(info.tasks),
            "vision": loaded is not None and loaded.pictures is not None,
            "sampling_defaults": dict(loaded.defaults) if loaded is not None else {},
            "tool_parser": loaded.pick.format.name if loaded is not None else None,
            "reasoning_parser": _thinks(context),
            "revision": None,
        },
    }


def _thinks(context: ServerContext) -> str | None:
    loaded = context.loaded_model
    if loaded is None or not loaded.pick.format.think[0]:
        return None
    return loaded.pick.format.name


def _state(context: ServerContext) -> str:
    phase = context.engine.status.phase
    if phase == "failed":
        return "failed"
    return "ready" if phase == "ready" and context.loaded_model is not None else "loading"
