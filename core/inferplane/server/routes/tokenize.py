"""POST /tokenize, POST /detokenize and GET /tokenizer_info, also under /v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode as to_json
from inferplane.server.chat_prompt import chat_prompt
from inferplane.server.context import ServerContext
from inferplane.server.conversation import check_chat
from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.handling import Asked, answer_headers, ask
from inferplane.server.prompts import check_characters, encode
from inferplane.server.routing import Endpoint, ScopedRoute
from inferplane.server.schema.report import Report
from inferplane.server.schema.tokenize import detokenize_structure, tokenize_structure
from inferplane.server.schema.tools import check_tools
from inferplane.server.served_model import ServedModel

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Three routes, each at two paths. They wait for the tokenizer, not for the engine."""
    tokenize_fields = tokenize_structure(context.limits)
    detokenize_fields = detokenize_structure()

    async def tokenize(request: Request) -> Response:
        asked = await ask(context, tokenize_fields, request, _check)
        work = _tokenized(context, asked)
        return _answer(context, asked, await unless_client_leaves(request.receive, work))

    async def detokenize(request: Request) -> Response:
        asked = await ask(context, detokenize_fields, request, lambda found, report: None)
        tokenizer = (await context.model()).tokenizer
        ids = asked.found["tokens"]
        if ids and max(ids) >= tokenizer.vocab_size:
            raise ApiError.of(
                "token_out_of_vocabulary",
                f"token id {max(ids)} is not in [0, {tokenizer.vocab_size})",
                "tokens",
            )
        return _answer(context, asked, {"prompt": tokenizer.decode(ids, skip_special_tokens=False)})

    async def info(request: Request) -> Response:
        return Response(to_json(_info(await context.model())), media_type="application/json")

    found: list[ScopedRoute] = []
    methods: list[tuple[str, Endpoint, str]] = [
        ("/tokenize", tokenize, "POST"),
        ("/detokenize", detokenize, "POST"),
        ("/tokenizer_info", info, "GET"),
    ]
    for path, endpoint, method in methods:
        for prefix in ("", "/v1"):
            found.append(ScopedRoute(prefix + path, endpoint, methods=[method], scope="infer"))
    return found


def _answer(context: ServerContext, asked: Asked, body: dict[str, object]) -> Response:
    headers = answer_headers(context, asked)
    return Response(to_json(body), media_type="application/json", headers=headers)


def _check(found: Mapping[str, Any], report: Report) -> None:
    given = [name for name in ("prompt", "messages") if name in found]
    if not given and not report.problems:
        report.wrong("missing_field", "prompt", "prompt is missing, and so is messages")
    elif len(given) == 2:
        report.wrong("conflicting_fields", "prompt", "prompt and messages exclude each other")
    if "messages" in found:
        check_chat(found, report)
        check_tools(found, report)


async def _tokenized(context: ServerContext, asked: Asked) -> dict[str, object]:
    model = await context.model()
    found = asked.found
    max_len = _max_len(context)
    if "messages" in found:
        tenant = asked.caller.name
        ids = (await chat_prompt(context, model, found, max_len, asked.report, tenant)).ids
    else:
        text = found["prompt"]
        check_characters(len(text), max_len, context.limits, "prompt")
        ids = await encode(model, text, found.get("add_special_tokens", True))
    body: dict[str, object] = {"tokens": ids, "count": len(ids), "max_model_len": max_len}
    wants_texts = found.get("return_token_strs", False)
    body["token_strs"] = [model.tokenizer.token_text(id) for id in ids] if wants_texts else None
    return body


def _max_len(context: ServerContext) -> int:
    info = context.engine.info
    return context.settings.launch.config.max_model_len if info is None else info.max_model_len


def _info(model: ServedModel) -> dict[str, object]:
    tokenizer = model.tokenizer
    return {
        "tokenizer_class": tokenizer.tokenizer_class,
        "model_max_length": tokenizer.model_max_length,
        "vocab_size": tokenizer.vocab_size,
        "chat_template": None if model.template is None else model.template.source,
        "bos_token": None,
        "eos_token": None,
        "pad_token": None,
        "unk_token": None,
        **tokenizer.special_tokens,
    }
