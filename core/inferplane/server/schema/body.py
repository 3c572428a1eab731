"""From the bytes of a request to a checked body: one parser, one walk, all problems at once."""

from __future__ import annotations

from typing import Any

import jiter
from starlette.requests import ClientDisconnect, Request

from inferplane.server.errors import ApiError
from inferplane.server.schema.fields import Structure
from inferplane.server.schema.report import Report

__all__ = ["check_body", "check_coding", "parse_json", "read_body"]


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises ApiError for a wrong type or size; ClientDisconnect as it comes."""
    _check_type(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else part


def _check_type(request: Request) -> None:
    given = request.headers.getlist("content-type")
    kind = given[0].partition(";")[0].strip().lower() if len(given) == 1 else ""
    if kind != "application/json":
        raise ApiError.of(
            "unsupported_media_type",
            "the body must be JSON, declared as such",
            hint="send the header content-type: application/json",
        )
    check_coding(request)


def check_coding(request: Request) -> None:
    """Bodies come as they are: a small packed one may be gigabytes unpacked, beyond every limit.

    Raises ApiError `unsupported_media_type`, which says what is taken (RFC 9110, 15.5.16).
    """
    coding = ",".join(request.headers.getlist("content-encoding")).strip().lower()
    if coding in ("", "identity"):
        return
    error = ApiError.of(
        "unsupported_media_type",
        f"content-encoding {coding[:40]!r} is not read",
        hint="send the body uncompressed, without the header content-encoding",
    )
    error.headers = {"accept-encoding": "identity"}
    raise error


def _too_large(max_bytes: int) -> ApiError:
    error = ApiError.of(
        "body_too_large",
        f"the body is larger than {max_bytes} bytes",
        hint=f"limits.body is {max_bytes}",
    )
    error.headers = {"connection": "close"}
    return error


def parse_json(data: bytes) -> dict[str, Any]:
    """The object a body holds. Raises ApiError `invalid_json` with line and column."""
    try:
        found = jiter.from_json(data, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError.of(
            "invalid_json",
            f"the body is not valid JSON: {str(error)[:200]}",
            hint="send one object as RFC 8259 has it, in UTF-8",
        ) from None
    if not isinstance(found, dict):
        raise ApiError.of("invalid_body", "the body must be a JSON object")
    return found


def check_body(
    structure: Structure, body: dict[str, Any], *, strict: bool
) -> tuple[dict[str, Any], Report]:
    """What was accepted, by field name, and the report of all that was found.

    The caller adds what only it can see, then raises the report's problems.
    """
    report = Report(strict=strict)
    found = structure.check(body, "", report)
    return found or {}, report
