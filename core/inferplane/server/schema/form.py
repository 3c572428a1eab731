"""Bodies that are forms with one file."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from inferplane.server.errors import ApiError
from inferplane.server.schema.body import check_coding

__all__ = ["read_form"]

_FIELDS = 16
_FIELD_BYTES = 65536


async def read_form(request: Request, most: int, hint: str) -> FormData:
    """The form, of at most `most` bytes; the caller closes it.

    Raises ApiError for another type, a larger body and what is no form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError.of("unsupported_media_type", "files come as a form", hint=hint)
    check_coding(request)
    parser = MultiPartParser(
        request.headers,
        _bounded(request, most),
        max_files=1,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except (MultiPartException, MultipartParseError, KeyError, ValueError):
        raise ApiError.of("invalid_body", "the form cannot be read") from None


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > most:
            error = ApiError.of(
                "body_too_large",
                f"the file is larger than {most} bytes",
                "file",
                "send it as several files",
            )
            error.headers = {"connection": "close"}
            raise error
        yield part
        if not message.get("more_body", False):
            yield b""
            return
