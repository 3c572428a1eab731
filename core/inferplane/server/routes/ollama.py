"""POST /api/chat and /api/generate, as Ollama's clients send them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from inferplane.errors import RequestError
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.logprobs import TokenNames
from inferplane.server.answers.ollama import OllamaAnswer, OllamaForm, loaded
from inferplane.server.chat_order import ChatOrder, prepare_chat
from inferplane.server.constraints import grammar_of
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import ApiError
from inferplane.server.generation import Generation, Order
from inferplane.server.handling import Asked, answer_headers, finish, handle_json
from inferplane.server.ollama_chat import (
    chat_fields,
    check_context,
    generate_fields,
    max_tokens,
    names_of,
    wants_load,
)
from inferplane.server.prompts import Prompt, check_characters, check_length, encode
from inferplane.server.routing import ScopedRoute
from inferplane.server.sampling import check_model_bounds, sampling_params
from inferplane.server.schema.ollama import chat_structure, generate_structure
from inferplane.server.schema.report import Report
from inferplane.server.schema.tools import ToolUse, check_tools

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Both routes, with their tables of fields."""
    chat_table = chat_structure(context.limits)
    generate_table = generate_structure(context.limits)

    async def chat(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving, chat=True)

        return await handle_json(context, chat_table, request, _check_chat, answer)

    async def generate(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving, chat=False)

        return await handle_json(context, generate_table, request, _check, answer)

    return [
        ScopedRoute(path, endpoint, methods=["POST"], scope="infer", dialect="ollama")
        for path, endpoint in (("/api/chat", chat), ("/api/generate", generate))
    ]


def _check(found: Mapping[str, Any], report: Report) -> None:
    if found.get("top_logprobs") is not None and not found.get("logprobs"):
        report.wrong("conflicting_fields", "top_logprobs", "top_logprobs needs logprobs: true")


def _check_chat(found: Mapping[str, Any], report: Report) -> None:
    _check(found, report)
    check_tools(found, report)


async def _answer(
    context: ServerContext, asked: Asked, serving: Serving, *, chat: bool
) -> Response:
    found = asked.found
    fields = chat_fields(found) if chat else generate_fields(found)
    names = names_of("messages" if chat else "prompt")
    asked = replace(asked, found={"stream": True, **found})
    check_context(found, serving.info.max_model_len, asked.report)
    wanted = TokenNames(serving.model.tokenizer) if found.get("logprobs") else None
    form = OllamaForm(asked.model_name, chat, wanted)
    if wants_load(found):
        headers = answer_headers(context, asked)
        body = loaded(form, "unload" if found.get("keep_alive") in (0, "0") else "load")
        return Response(body, media_type="application/json", headers=headers)
    try:
        order = await _prepared(context, asked, serving, fields)
    except (ApiError, RequestError) as error:
        raise names.error(error) from None
    finally:
        names.notices(asked.report)
    answer = OllamaAnswer(form, order.generation, order.reader())
    return await finish(context, asked, order.generation, answer)


async def _prepared(
    context: ServerContext, asked: Asked, serving: Serving, fields: Mapping[str, Any]
) -> ChatOrder:
    """A chat; the bare prompt where that is asked, or where the model has no template for it."""
    found = asked.found
    most = max_tokens(found)
    logprobs = found.get("top_logprobs", 0) if found.get("logprobs") else None
    plain = serving.model.template is None and "prompt" in found and not found.get("system")
    if found.get("raw") or plain:
        return await _continued(context, asked, serving, fields, most, logprobs)
    return await prepare_chat(context, asked, serving, fields, max_tokens=most, logprobs=logprobs)


async def _continued(
    context: ServerContext,
    asked: Asked,
    serving: Serving,
    fields: Mapping[str, Any],
    most: int | None,
    logprobs: int | None,
) -> ChatOrder:
    """The prompt as it is."""
    if asked.found.get("images"):
        raise ApiError.of(
            "unsupported_feature",
            "images: a picture needs the model's chat template",
            "images",
            "leave raw out",
        )
    report, text = asked.report, asked.found["prompt"]
    check_model_bounds(fields, serving.info, report)
    params = sampling_params(
        fields, serving, report, max_tokens=most, logprobs=logprobs, prompt_logprobs=None
    )
    report.raise_problems()
    check_characters(len(text), serving.info.max_model_len, context.limits, "messages")
    prompt = Prompt(await encode(serving.model, text, True), text, "messages")
    check_length(prompt, most, serving)
    row = serving.model.pick.format
    grammar = await grammar_of(
        context,
        serving,
        fields,
        ToolUse(),
        row,
        report,
        tenant=asked.caller.name,
        thinking=False,
    )
    order = Order(
        [prompt],
        msgspec.structs.replace(params, grammar=grammar),
        asked.request_id,
        asked.caller,
        asked.began,
        deadline_s=asked.deadline_s(),
    )
    return ChatOrder(Generation(context, serving, order), lambda: ChoiceReader(None))
