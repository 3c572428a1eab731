"""POST and GET /v1/files, and one file's facts, content and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.errors import ApiError
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.form import read_form
from inferplane.server.schema.query import page_of, query_choice
from inferplane.server.stored.files import StoredFile, StoredFiles, TooMuch

__all__ = ["found_file", "routes"]

_PATH = "/v1/files/{id}"
_PIECE = 256 * 1024
_PURPOSES = ("batch", "batch_output")
_NAME_CHARACTERS = 255


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The routes."""
    room = _Room(context)

    def route(path: str, method: str, do: Callable[[Request], Awaitable[Response]]) -> ScopedRoute:
        return ScopedRoute(path, do, methods=[method], scope="infer")

    return [
        route("/v1/files", "POST", room.upload),
        route("/v1/files", "GET", room.list),
        route(_PATH, "GET", room.get),
        route(_PATH, "DELETE", room.delete),
        route(_PATH + "/content", "GET", room.content),
    ]


async def found_file(files: StoredFiles, owner: str, id: str, param: str) -> StoredFile:
    """One file of that key. Raises ApiError `file_not_found`."""
    found = await files.get(owner, id)
    if found is None:
        raise ApiError.of("file_not_found", "there is no file of that id", param)
    return found


class _Room:
    """What a key has stored."""

    def __init__(self, context: ServerContext) -> None:
        self.limits = context.limits
        self.files = context.files

    async def upload(self, request: Request) -> Response:
        """Take a JSON-lines file."""
        form = await read_form(
            request, self.limits.file_bytes, "send multipart/form-data with file and purpose"
        )
        try:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise ApiError.of("missing_field", "file is missing", "file")
            if purpose != "batch":
                code = "missing_field" if purpose is None else "unknown_value"
                raise ApiError.of(code, "purpose must be batch", "purpose")
            name = (file.filename or "file")[:_NAME_CHARACTERS]
            owner = request.scope["state"]["caller"].name
            made = await self.files.add(owner, name, "batch", file.file)
        except TooMuch:
            raise ApiError.of(
                "too_many_items", "this key has no room for another file", "file", "delete some"
            ) from None
        finally:
            await form.close()
        return _json(made.object())

    async def list(self, request: Request) -> Response:
        """One page of this key's files."""
        purpose = query_choice(request, "purpose", _PURPOSES)
        found = await self.files.all(_owner(request))
        objects = [one.object() for one in found if purpose in (None, one.purpose)]
        return _json(page_of(request, objects, 10_000, 10_000))

    async def get(self, request: Request) -> Response:
        """What is known of one."""
        return _json((await self._found(request)).object())

    async def delete(self, request: Request) -> Response:
        """Take one away."""
        id = (await self._found(request)).id
        await self.files.delete(_owner(request), id)
        return _json({"id": id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        """What is in one."""
        found = await self._found(request)
        return StreamingResponse(
            _pieces(self.files.path(found.id)),
            media_type="application/octet-stream",
            headers={"content-length": str(found.size)},
        )

    async def _found(self, request: Request) -> StoredFile:
        return await found_file(self.files, _owner(request), request.path_params["id"], "id")


def _owner(request: Request) -> str:
    name: str = request.scope["state"]["caller"].name
    return name


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    file: IO[bytes] = await asyncio.to_thread(path.open, "rb")
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _json(value: object) -> Response:
    return Response(encode(value), media_type="application/json")
