"""Query parameters, checked as strictly as bodies."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from inferplane.server.errors import ApiError

__all__ = ["query_choice", "query_flag", "query_whole"]


def query_choice(request: Request, name: str, values: Sequence[str]) -> str | None:
    """One of a few words; None = not given. Raises ApiError."""
    given = request.query_params.get(name)
    if given is not None and given not in values:
        raise ApiError.of("unknown_value", f"{name} is not one of {', '.join(values)}", name)
    return given


def query_flag(request: Request, name: str) -> bool:
    """true or false; not given is false. Raises ApiError."""
    return query_choice(request, name, ("true", "false")) == "true"


def query_whole(request: Request, name: str, low: int, high: int) -> int | None:
    """A whole number within bounds; None = not given. Raises ApiError."""
    given = request.query_params.get(name)
    if given is None:
        return None
    plain = given.isascii() and given.isdecimal() and len(given) <= 10
    if not plain or not low <= int(given) <= high:
        raise ApiError.of("out_of_range", f"{name} must be a whole number in [{low}, {high}]", name)
    return int(given)
