"""Query parameters, checked as strictly as bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from inferplane.server.errors import ApiError

__all__ = ["page_of", "query_choice", "query_flag", "query_whole"]


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


def page_of(
    request: Request, objects: Sequence[Mapping[str, Any]], usual: int, most: int
) -> dict[str, Any]:
    """One page of a list, as `limit`, `after` and `order` ask; objects come newest first. Raises
    ApiError."""
    limit = query_whole(request, "limit", 1, most) or usual
    if query_choice(request, "order", ("asc", "desc")) == "asc":
        objects = objects[::-1]
    if (after := request.query_params.get("after")) is not None:
        places = [index for index, one in enumerate(objects) if one.get("id") == after]
        if not places:
            raise ApiError.of("unknown_value", "after is no member of this list", "after")
        objects = objects[places[0] + 1 :]
    page = objects[:limit]
    return {
        "object": "list",
        "data": list(page),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(objects) > limit,
    }
