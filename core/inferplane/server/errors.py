"""Every answer that is not a success: codes, statuses and the bodies each dialect expects.

Texts are ours: no exception text, class name, path or prompt ever reaches a client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "CODES",
    "MAX_RETRY_AFTER_S",
    "ApiError",
    "CodeInfo",
    "Dialect",
    "Problem",
    "error_body",
    "error_headers",
    "error_object",
]

Dialect: TypeAlias = Literal["openai", "anthropic", "ollama", "plain"]
MAX_RETRY_AFTER_S = 120
"""Common clients give up on anything longer."""
_NO_KEYS = "Ollama's clients send no key: without keys, the server can be used on loopback"
_MAX_PROBLEMS = 10
_MAX_TEXT = 2_000


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """One wire code: its status and what repeating the request can achieve."""

    status: int
    retry_after_s: int = 0
    """Default of `Retry-After`; 0 = none."""
    should_retry: bool | None = None
    """`x-should-retry`; None = left to the client."""


_INVALID = CodeInfo(400)
CODES: Mapping[str, CodeInfo] = {
    **dict.fromkeys(
        (
            "invalid_json",
            "invalid_body",
            "missing_field",
            "invalid_type",
            "out_of_range",
            "unknown_value",
            "unknown_field",
            "conflicting_fields",
            "context_length_exceeded",
            "capacity_exceeded",
            "token_out_of_vocabulary",
            "invalid_schema",
            "unsupported_schema_keyword",
            "invalid_grammar",
            "grammar_too_complex",
            "no_chat_template",
            "template_rejected",
            "unsupported_feature",
            "unsupported_parameter",
            "media_invalid",
            "media_fetch_disabled",
            "too_many_items",
            "previous_response_not_found",
            "bad_request",
        ),
        _INVALID,
    ),
    "missing_api_key": CodeInfo(401),
    "invalid_api_key": CodeInfo(401),
    "insufficient_scope": CodeInfo(403),
    "host_not_allowed": CodeInfo(403),
    "origin_not_allowed": CodeInfo(403),
    "route_not_found": CodeInfo(404),
    "route_disabled": CodeInfo(404),
    "route_unsupported_by_model": CodeInfo(404),
    "model_not_found": CodeInfo(404),
    "adapter_not_found": CodeInfo(404),
    "response_not_found": CodeInfo(404),
    "file_not_found": CodeInfo(404),
    "batch_not_found": CodeInfo(404),
    "method_not_allowed": CodeInfo(405),
    "request_timeout": CodeInfo(408, 1, True),
    "conflict": CodeInfo(409, 1, False),
    "body_too_large": CodeInfo(413),
    "uri_too_long": CodeInfo(414),
    "unsupported_media_type": CodeInfo(415),
    "headers_too_large": CodeInfo(431),
    "rate_limited": CodeInfo(429, 1, True),
    "concurrency_limited": CodeInfo(429, 1, True),
    "queue_full": CodeInfo(429, 1, True),
    "internal_error": CodeInfo(500, 1, True),
    "model_numerical_error": CodeInfo(500, 1, False),
    "engine_poisoned_request": CodeInfo(500, 1, False),
    "deadline_exceeded": CodeInfo(504, 1, False),
    "model_loading": CodeInfo(503, 5, True),
    "draining": CodeInfo(503, 1, True),
    "engine_restarting": CodeInfo(503, 5, True),
    "engine_dead": CodeInfo(503, 30, True),
    "queue_timeout": CodeInfo(503, 5, True),
    "too_many_connections": CodeInfo(503, 1, True),
}
"""Wire code -> what it means; the list of `docs/http-api.md` 3.3."""

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "server_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "api_error",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request; `param` is a path such as `messages.2.content`."""

    code: str
    message: str
    param: str | None = None
    hint: str = ""


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """The request ends with these problems; the first one gives status and code."""

    problems: Sequence[Problem]
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    """Measured; None = the code's default."""

    @classmethod
    def of(cls, code: str, message: str, param: str | None = None, hint: str = "") -> ApiError:
        """One problem."""
        return cls((Problem(code, message, param, hint),))

    @property
    def code(self) -> str:
        """Wire code of the first problem."""
        return self.problems[0].code

    @property
    def status(self) -> int:
        """HTTP status."""
        return CODES[self.code].status

    def __str__(self) -> str:
        return f"{self.code}: {self.problems[0].message}"


def error_body(error: ApiError, dialect: Dialect, request_id: str) -> bytes:
    """The JSON body in a dialect's shape."""
    return msgspec.json.encode(error_object(error, dialect, request_id))


def error_object(error: ApiError, dialect: Dialect, request_id: str) -> dict[str, object]:
    """The body as an object; streams send it in a frame."""
    first = error.problems[0]
    if dialect == "ollama":
        hint = _NO_KEYS if error.status == 401 else first.hint[:_MAX_TEXT]
        return {"error": first.message[:_MAX_TEXT], "code": first.code, "hint": hint}
    said: dict[str, object] = {
        "message": first.message[:_MAX_TEXT],
        "type": _type_of(error.status, dialect),
        "param": first.param,
        "code": first.code,
        "hint": first.hint[:_MAX_TEXT],
    }
    if len(error.problems) > 1:
        said["problems"] = [
            {"code": p.code, "message": p.message[:_MAX_TEXT], "param": p.param, "hint": p.hint}
            for p in error.problems[:_MAX_PROBLEMS]
        ]
    if dialect == "anthropic":
        return {"type": "error", "error": said, "request_id": request_id}
    said["doc_url"] = f"/docs/errors/{first.code}"
    said["request_id"] = request_id
    return {"error": said}


def _type_of(status: int, dialect: Dialect) -> str:
    types = _ANTHROPIC_TYPES if dialect == "anthropic" else _OPENAI_TYPES
    return types.get(status, "invalid_request_error")


def error_headers(error: ApiError) -> dict[str, str]:
    """Headers beside the body: how long to wait, and whether repeating can help."""
    info = CODES[error.code]
    headers = dict(error.headers)
    if info.status in (408, 409, 429) or info.status >= 500:
        wait = info.retry_after_s if error.retry_after_s is None else error.retry_after_s
        wait = min(max(wait, 0.05), MAX_RETRY_AFTER_S)
        headers["retry-after"] = str(max(1, round(wait)))
        headers["retry-after-ms"] = str(round(wait * 1000))
        if info.should_retry is not None:
            headers["x-should-retry"] = "true" if info.should_retry else "false"
    if info.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
