"""POST and GET /v1/batches, and one batch's state and cancel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.batches.lines import ENDPOINTS
from inferplane.server.batches.runner import BatchRunner, new_batch
from inferplane.server.context import ServerContext
from inferplane.server.errors import ApiError
from inferplane.server.routes.files import found_file
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.batches import batch_structure
from inferplane.server.schema.body import check_body, parse_json, read_body
from inferplane.server.schema.query import page_of
from inferplane.server.stored.batches import StoredBatches

__all__ = ["routes"]

_PATH = "/v1/batches/{id}"


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The routes. Batches that an earlier server began go on with this one."""
    batches = StoredBatches(context.state)
    runner = BatchRunner(context, context.files, batches)
    room = _Room(context, batches, runner)
    if context.state.lasts:
        context.on_start.append(lambda: context.spawn(runner.resume()))

    def route(path: str, method: str, do: Callable[[Request], Awaitable[Response]]) -> ScopedRoute:
        return ScopedRoute(path, do, methods=[method], scope="infer")

    return [
        route("/v1/batches", "POST", room.create),
        route("/v1/batches", "GET", room.list),
        route(_PATH, "GET", room.get),
        route(_PATH + "/cancel", "POST", room.cancel),
    ]


class _Room:
    """A key's batches."""

    def __init__(self, context: ServerContext, batches: StoredBatches, runner: BatchRunner) -> None:
        self.context = context
        self.batches = batches
        self.runner = runner
        self.structure = batch_structure(ENDPOINTS)

    async def create(self, request: Request) -> Response:
        """Begin one."""
        limits, owner = self.context.limits, _owner(request)
        body = parse_json(await read_body(request, limits.body_bytes))
        strict = request.headers.get("x-inferplane-strict") == "1"
        strict = strict or self.context.settings.strict
        found, report = check_body(self.structure, body, strict=strict)
        report.raise_problems()
        await found_file(self.context.files, owner, found["input_file_id"], "input_file_id")
        if self.runner.count(owner) >= limits.batches:
            raise ApiError.of(
                "concurrency_limited",
                f"this key has {limits.batches} batches under way",
                hint="wait for one of them, or cancel one",
            )
        batch = new_batch(found)
        self.runner.start(owner, batch)
        told = report.warnings.header()
        return _json(batch, {"x-inferplane-warnings": told} if told else {})

    async def list(self, request: Request) -> Response:
        """One page of this key's batches."""
        owner = _owner(request)
        stored = [batch for _, batch in await self.batches.all(owner)]
        objects = [self.runner.live(owner, one["id"]) or one for one in stored]
        return _json(page_of(request, objects, 20, 100))

    async def get(self, request: Request) -> Response:
        """How far one is."""
        return _json(await self._found(request))

    async def cancel(self, request: Request) -> Response:
        """End one; one that has ended is a conflict."""
        batch = await self._found(request)
        if self.runner.live(_owner(request), batch["id"]) is None:
            raise ApiError.of("conflict", f"the batch is {batch['status']}", "id")
        if batch["status"] != "cancelling":
            self.runner.cancel(_owner(request), batch)
        return _json(batch)

    async def _found(self, request: Request) -> dict[str, Any]:
        owner, id = _owner(request), request.path_params["id"]
        found = self.runner.live(owner, id) or await self.batches.get(owner, id)
        if found is None:
            raise ApiError.of("batch_not_found", "there is no batch of that id", "id")
        return found


def _owner(request: Request) -> str:
    name: str = request.scope["state"]["caller"].name
    return name


def _json(value: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(value), media_type="application/json", headers=dict(headers or {}))
