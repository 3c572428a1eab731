"""The common course of a generating request: body, checks, model, admission, answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from inferplane.errors import RequestError
from inferplane.server.answers.usage import usage
from inferplane.server.auth import Caller
from inferplane.server.context import ServerContext, Serving
from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.front_door import as_api_error
from inferplane.server.generation import Generation
from inferplane.server.schema.body import check_body, parse_json, read_body
from inferplane.server.schema.fields import Structure
from inferplane.server.schema.report import Report
from inferplane.server.sse import EventStream, StreamedAnswer
from inferplane.server.traced import generated_of

__all__ = ["Asked", "WholeAnswer", "answer_headers", "ask", "finish", "handle_json", "refused"]

_PRIORITIES = 1 << 31


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, its body checked against its table."""

    request: Request
    found: Mapping[str, Any]
    report: Report
    model_name: str

    @property
    def request_id(self) -> str:
        """As answers and logs call it."""
        return str(self.request.scope["state"]["request_id"])

    @property
    def caller(self) -> Caller:
        """Who asks."""
        found: Caller = self.request.scope["state"]["caller"]
        return found

    @property
    def began(self) -> float:
        """When it came, on the monotonic clock."""
        return float(self.request.scope["state"]["began"])

    def note(self, **facts: object) -> None:
        """Facts for the log line."""
        self.request.scope["state"]["facts"].update(facts)

    def deadline_s(self) -> float | None:
        """`x-inferplane-deadline-ms`, which can only shorten. Raises ApiError."""
        given = self.request.headers.get("x-inferplane-deadline-ms")
        if given is None:
            return None
        if not given.isdecimal() or not 1 <= int(given[:10]) <= 10**9:
            raise ApiError.of(
                "out_of_range",
                "x-inferplane-deadline-ms must be a whole number of milliseconds above 0",
                "x-inferplane-deadline-ms",
            )
        return int(given[:10]) / 1000

    def priority(self, context: ServerContext) -> int:
        """From body or header; told when the policy does not use it. Raises ApiError."""
        given = self.found.get("priority")
        header = self.request.headers.get("x-inferplane-priority")
        if given is None and header is not None:
            try:
                given = int(header[:12])
            except ValueError:
                given = _PRIORITIES
            if abs(given) >= _PRIORITIES:
                raise ApiError.of(
                    "out_of_range",
                    "x-inferplane-priority must be a 32-bit integer",
                    "x-inferplane-priority",
                )
        if given is None:
            return 0
        if context.settings.launch.scheduler.policy != "priority":
            self.report.notice("ignored_field", "priority", "the policy is not priority")
        return int(given)


Check: TypeAlias = Callable[[Mapping[str, Any], Report], None]
"""Rules between fields."""


async def ask(
    context: ServerContext, structure: Structure, request: Request, check: Check
) -> Asked:
    """Read and check the body. Raises ApiError with all problems."""
    body = parse_json(await read_body(request, context.limits.body_bytes))
    request.scope["state"]["began"] = time.monotonic()
    strict = context.settings.strict or request.headers.get("x-inferplane-strict") == "1"
    found, report = check_body(structure, body, strict=strict)
    if strict and "model" in structure.fields and body.get("model") is None:
        report.wrong("missing_field", "model", "model is missing", "strict mode is on")
    check(found, report)
    report.raise_problems()
    return Asked(request, found, report, context.card.resolve(found.get("model")))


async def handle_json(
    context: ServerContext,
    structure: Structure,
    request: Request,
    check: Check,
    answer: Callable[[Asked, Serving], Awaitable[Response]],
) -> Response:
    """Read and check the body, wait for the model, answer. All problems come before any work.

    The client's leaving cancels whatever is under way.
    """
    asked = await ask(context, structure, request, check)

    async def work() -> Response:
        return await answer(asked, await context.serving())

    return await unless_client_leaves(request.receive, work())


def answer_headers(context: ServerContext, asked: Asked) -> dict[str, str]:
    """Headers of a good answer: what was ignored or changed, and which model answers."""
    for entry in asked.report.warnings.entries:
        context.metrics.note_warning(entry.code)
    headers = {"x-inferplane-model": asked.model_name.encode("ascii", "replace").decode()}
    if told := asked.report.warnings.header():
        headers["x-inferplane-warnings"] = told
    return headers


class WholeAnswer(StreamedAnswer, Protocol):
    """An answer that can also be told at once."""

    async def whole(self) -> bytes:
        """The complete body."""
        ...


async def finish(
    context: ServerContext, asked: Asked, generation: Generation, answer: WholeAnswer
) -> Response:
    """Admit the generation and answer, streamed or at once. Raises before anything is sent."""
    try:
        await generation.admit()
    except RequestError as error:
        raise refused(context, error) from None
    headers = answer_headers(context, asked)
    if asked.found.get("stream"):
        return EventStream(
            generation,
            answer,
            headers=headers,
            ping_s=context.limits.ping_s,
            on_failure=context.note_failure,
            on_end=lambda: _note(asked, generation),
        )
    try:
        body = await answer.whole()
    finally:
        generation.close()
        _note(asked, generation)
    headers["openai-processing-ms"] = str(round((time.monotonic() - asked.began) * 1000))
    return Response(body, media_type="application/json", headers=headers)


def refused(context: ServerContext, error: RequestError) -> Exception:
    """A refusal of the engine; a full queue says how long it takes to empty."""
    known = as_api_error(error)
    if known is None:
        return error
    if known.code == "queue_full":
        known.retry_after_s = context.metrics.queue_wait_s()
    return known


def _note(asked: Asked, generation: Generation) -> None:
    counts = usage(generation)
    choices = generation.choices
    finish = tuple(sorted({str(c.finish or "cut") for c in choices}))
    asked.note(
        prompt_tokens=counts["prompt_tokens"],
        completion_tokens=counts["completion_tokens"],
        finish=",".join(finish),
    )
    asked.request.scope["state"]["generated"] = generated_of(asked.model_name, generation, finish)
    if choices and choices[0].first_s is not None:
        asked.note(ttft_ms=round((choices[0].first_s - asked.began) * 1e3, 1))
