"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from inferplane.sampling_params import SamplingParams
from inferplane.server.answers.chat import ChatAnswer, ChatOptions
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.frames import Head
from inferplane.server.answers.logprobs import TokenNames
from inferplane.server.constraints import grammar_of
from inferplane.server.context import ServerContext, Serving
from inferplane.server.conversation import chat_text, check_chat
from inferplane.server.generation import Generation, Order
from inferplane.server.handling import Asked, finish, handle_json
from inferplane.server.prompts import Prompt, check_length, encode, truncated
from inferplane.server.routing import ScopedRoute
from inferplane.server.sampling import check_model_bounds, check_sampling, sampling_params
from inferplane.server.schema.chat import chat_structure
from inferplane.server.schema.report import Report
from inferplane.server.schema.structured import check_constraint
from inferplane.server.schema.tools import ToolUse, check_tools, tool_use
from inferplane.server.served_model import ServedModel
from inferplane.server.tools.formats import Format, format_named
from inferplane.server.tools.stream import OutputParser, begins_thinking

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
    found, report = asked.found, asked.report
    check_model_bounds(found, serving.info, report)
    max_tokens = _max_tokens(found)
    params = _params(found, serving, report, max_tokens)
    priority = asked.priority(context)
    report.raise_problems()
    max_len = serving.info.max_model_len
    text = await chat_text(serving.model, found, context.limits, max_len, report)
    report.raise_problems()
    ids = await encode(serving.model, text, found.get("add_special_tokens", False))
    ids = truncated(ids, found, max_len, max_tokens or 1, report)
    prompt = Prompt(ids, param="messages")
    check_length(prompt, max_tokens, serving)
    use = tool_use(found)
    row = _format(serving.model, use)
    caller = asked.request.scope["state"]["caller"]
    grammar = await grammar_of(
        context,
        serving,
        found,
        use,
        row,
        report,
        tenant=caller.name,
        thinking=begins_thinking(serving.model.pick.format, text),
    )
    report.raise_problems()
    params = replace(params, grammar=grammar)
    order = Order(
        [prompt],
        params,
        asked.request_id,
        caller,
        asked.began,
        priority,
        found.get("cache_salt"),
        asked.deadline_s(),
        markers=serving.model.markers[row.name],
    )
    generation = Generation(context, serving, order)
    head = Head(
        "chatcmpl-" + secrets.token_hex(12),
        "chat.completion.chunk" if found.get("stream") else "chat.completion",
        asked.model_name,
        serving.fingerprint,
    )
    reader = _reader(row, use, text, found.get("include_reasoning", True))
    answer = ChatAnswer(head, generation, _options(found, serving, reader))
    return await finish(context, asked, generation, answer)


def _params(
    found: Mapping[str, Any], serving: Serving, report: Report, max_tokens: int | None
) -> SamplingParams:
    return sampling_params(
        found,
        serving,
        report,
        max_tokens=max_tokens,
        logprobs=found.get("top_logprobs", 0) if found.get("logprobs") else None,
        prompt_logprobs=found.get("prompt_logprobs"),
    )


def _format(model: ServedModel, use: ToolUse) -> Format:
    """The model's own format; Hermes' where it has none for calls, or where a call is forced."""
    row = model.pick.format
    if use.mode == "required":
        return format_named("hermes")
    told = model.template is not None and not model.template.takes_tools
    return format_named("hermes") if use.tools and (told or not row.tools) else row


def _reader(
    row: Format, use: ToolUse, prompt: str, include_reasoning: bool
) -> Callable[[], ChoiceReader]:
    thinking = begins_thinking(row, prompt)
    reads = bool(use.tools) or row.think[0] != ""

    def make() -> ChoiceReader:
        if not reads:
            return ChoiceReader(None)
        parser = OutputParser(row, use.tools, thinking=thinking, at_most_one=not use.parallel)
        return ChoiceReader(parser, include_reasoning)

    return make


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
