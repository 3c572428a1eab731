"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.chat import ChatAnswer, ChatOptions
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.frames import Head
from inferplane.server.answers.logprobs import TokenNames
from inferplane.server.chat_order import prepare_chat
from inferplane.server.context import ServerContext, Serving
from inferplane.server.conversation import check_chat
from inferplane.server.handling import Asked, finish, handle_json
from inferplane.server.routing import ScopedRoute
from inferplane.server.sampling import check_sampling
from inferplane.server.schema.chat import chat_structure
from inferplane.server.schema.report import Report
from inferplane.server.schema.structured import check_constraint
from inferplane.server.schema.tools import check_tools

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The route, with its table of fields."""
    structure = chat_structure(context.limits)

    async def chat(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving)

        return await handle_json(context, structure, request, _check, answer)

    return [ScopedRoute("/v1/chat/completions", chat, methods=["POST"], scope="infer")]


def _check(found: Mapping[str, Any], report: Report) -> None:
    check_sampling(found, report)
    check_chat(found, report)
    check_tools(found, report)
    check_constraint(found, report)
    if found.get("top_logprobs") is not None and not found.get("logprobs"):
        report.wrong("conflicting_fields", "top_logprobs", "top_logprobs needs logprobs: true")
    both = (found.get("max_tokens"), found.get("max_completion_tokens"))
    if None not in both and both[0] != both[1]:
        report.notice("ignored_field", "max_tokens", "max_completion_tokens wins")
    if found.get("echo") and not found.get("continue_final_message"):
        report.wrong("conflicting_fields", "echo", "echo needs continue_final_message: true")


def _max_tokens(found: Mapping[str, Any]) -> int | None:
    given = found.get("max_completion_tokens")
    return given if given is not None else found.get("max_tokens")


async def _answer(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    found = asked.found
    order = await prepare_chat(
        context,
        asked,
        serving,
        found,
        max_tokens=_max_tokens(found),
        logprobs=found.get("top_logprobs", 0) if found.get("logprobs") else None,
    )
    head = Head(
        "chatcmpl-" + secrets.token_hex(12),
        "chat.completion.chunk" if found.get("stream") else "chat.completion",
        asked.model_name,
        serving.fingerprint,
    )
    answer = ChatAnswer(head, order.generation, _options(found, serving, order.reader))
    return await finish(context, asked, order.generation, answer)


def _options(
    found: Mapping[str, Any], serving: Serving, reader: Callable[[], ChoiceReader]
) -> ChatOptions:
    stream = found.get("stream_options") or {}
    last = found["messages"][-1].get("content")
    if isinstance(last, list):
        last = "\n".join(part.get("text") or part.get("refusal") or "" for part in last)
    as_ids = found.get("return_tokens_as_token_ids", False)
    return ChatOptions(
        TokenNames(serving.model.tokenizer, as_ids),
        reader,
        logprobs=found.get("logprobs", False),
        token_ids=found.get("return_token_ids", False),
        include_usage=stream.get("include_usage", False),
        continuous_usage=stream.get("continuous_usage_stats", False),
        timings=found.get("timings", False),
        echo=last if found.get("echo") else "",
    )
