"""GET and DELETE /v1/responses/{id}, its cancel and its input_items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.errors import ApiError
from inferplane.server.routes.responses_background import BackgroundRuns, FollowStream
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.query import page_of, query_choice, query_flag, query_whole
from inferplane.server.stored.responses import StoredResponse, StoredResponses

__all__ = ["stored_routes"]

_PATH = "/v1/responses/{id}"
_PAGE = 100


def stored_routes(stored: StoredResponses, runs: BackgroundRuns) -> list[ScopedRoute]:
    """The routes."""
    room = _Room(stored, runs)

    def route(
        path: str, method: str, answer: Callable[[Request], Awaitable[Response]]
    ) -> ScopedRoute:
        return ScopedRoute(path, answer, methods=[method], scope="infer")

    return [
        route(_PATH, "GET", room.get),
        route(_PATH, "DELETE", room.delete),
        route(_PATH + "/cancel", "POST", room.cancel),
        route(_PATH + "/input_items", "GET", room.input_items),
    ]


class _Room:
    """What a key has stored."""

    def __init__(self, stored: StoredResponses, runs: BackgroundRuns) -> None:
        self.stored = stored
        self.runs = runs

    async def get(self, request: Request) -> Response:
        """The object, or again the events of a background run."""
        owner, id = _asked(request)
        stream = query_flag(request, "stream")
        after = query_whole(request, "starting_after", 0, (1 << 31) - 1)
        query_choice(request, "include_obfuscation", ("true", "false"))
        run = self.runs.get(owner, id)
        if stream:
            if run is None or not run.stream:
                raise ApiError.of(
                    "unsupported_feature",
                    "only answers made with background and stream can be streamed again",
                    "stream",
                    "read it without stream",
                )
            first = 0 if after is None else after + 1
            return FollowStream(run, first, {}, self.runs.context.limits.ping_s)
        if after is not None:
            raise ApiError.of(
                "conflicting_fields", "starting_after needs stream=true", "starting_after"
            )
        if run is not None:
            return _json({**run.answer.object})
        return _json((await self._found(owner, id)).answer)

    async def delete(self, request: Request) -> Response:
        """Forget it; a run under way ends."""
        owner, id = _asked(request)
        if self.runs.get(owner, id) is not None:
            self.runs.drop(id)
        if not await self.stored.delete(owner, id):
            raise _unknown()
        return _json({"id": id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """End a background run. One that has ended stays as it is."""
        owner, id = _asked(request)
        run = self.runs.get(owner, id)
        if run is not None:
            return _json(run.cancel())
        answer = (await self._found(owner, id)).answer
        if not answer["background"]:
            raise ApiError.of(
                "conflicting_fields",
                "only answers made in the background can be cancelled",
                "id",
                "to end a foreground request, close its connection",
            )
        return _json(answer)

    async def input_items(self, request: Request) -> Response:
        """One page of what the model was given, the newest first unless `order` says otherwise."""
        owner, id = _asked(request)
        items = (await self._found(owner, id)).items
        return _json(page_of(request, items[::-1], 20, _PAGE))

    async def _found(self, owner: str, id: str) -> StoredResponse:
        found = await self.stored.get(owner, id)
        if found is None:
            raise _unknown()
        return found


def _asked(request: Request) -> tuple[str, str]:
    """(owner, id)."""
    return request.scope["state"]["caller"].name, request.path_params["id"]


def _unknown() -> ApiError:
    return ApiError.of(
        "response_not_found",
        "there is no stored answer of that id",
        "id",
        "answers are kept for an hour, for the key that made them",
    )


def _json(value: Mapping[str, Any]) -> Response:
    return Response(encode(value), media_type="application/json")
