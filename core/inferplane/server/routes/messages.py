"""POST /v1/messages and /v1/messages/count_tokens: the dialect of Anthropic's clients."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.errors import RequestError
from inferplane.server.answers.frames import encode as to_json
from inferplane.server.answers.messages import MessagesAnswer
from inferplane.server.chat_order import ChatOrder, count_chat, prepare_chat
from inferplane.server.context import ServerContext, Serving
from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.handling import Asked, Check, answer_headers, ask, finish, handle_json
from inferplane.server.messages_chat import ChatForm, chat_form
from inferplane.server.routing import ScopedRoute
from inferplane.server.sampling import check_sampling
from inferplane.server.schema.messages import count_tokens_structure, messages_structure
from inferplane.server.schema.report import Report
from inferplane.server.schema.tools import check_tools

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Both routes, with their tables of fields."""
    structure = messages_structure(context.limits)
    counted = count_tokens_structure(context.limits)

    async def messages(request: Request) -> Response:
        forms: list[ChatForm] = []

        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving, forms[0])

        check = _check_into(forms, context, request)
        return await handle_json(context, structure, request, check, answer)

    async def count_tokens(request: Request) -> Response:
        forms: list[ChatForm] = []
        asked = await ask(context, counted, request, _check_into(forms, context, request))
        work = _count(context, asked, forms[0])
        body = to_json({"input_tokens": await unless_client_leaves(request.receive, work)})
        headers = answer_headers(context, asked)
        return Response(body, media_type="application/json", headers=headers)

    return [
        ScopedRoute(path, endpoint, methods=["POST"], scope="infer", dialect="anthropic")
        for path, endpoint in (
            ("/v1/messages", messages),
            ("/v1/messages/count_tokens", count_tokens),
        )
    ]


def _check_into(forms: list[ChatForm], context: ServerContext, request: Request) -> Check:
    """A check that also leaves the body's form as a chat, once nothing is wrong with its parts."""

    def check(found: Mapping[str, Any], report: Report) -> None:
        if report.problems:
            return
        budget = (found.get("thinking") or {}).get("budget_tokens", 0)
        if budget >= found.get("max_tokens", budget + 1):
            where = "thinking.budget_tokens"
            report.wrong("out_of_range", where, f"{where} must be below max_tokens")
        if betas := request.headers.get("anthropic-beta"):
            report.notice("ignored_field", "anthropic-beta", "no beta is known here", value=betas)
        form = chat_form(found, report, keep_attribution=context.settings.keep_attribution_header)
        if not report.problems:
            check_sampling(form.fields, report)
            check_tools(form.fields, report)
        forms.append(form)

    return check


async def _prepared(
    context: ServerContext, asked: Asked, serving: Serving, form: ChatForm
) -> ChatOrder:
    try:
        return await prepare_chat(
            context,
            asked,
            serving,
            form.fields,
            max_tokens=asked.found["max_tokens"],
            logprobs=None,
        )
    except (ApiError, RequestError) as error:
        raise form.names.error(error) from None
    finally:
        form.names.notices(asked.report)


async def _answer(
    context: ServerContext, asked: Asked, serving: Serving, form: ChatForm
) -> Response:
    order = await _prepared(context, asked, serving, form)
    id = "msg_" + secrets.token_hex(12)
    tokenizer = serving.model.tokenizer
    answer = MessagesAnswer(
        id,
        asked.model_name,
        order.generation,
        order.reader(),
        lambda text: len(tokenizer.encode(text)),
    )
    return await finish(context, asked, order.generation, answer)


async def _count(context: ServerContext, asked: Asked, form: ChatForm) -> int:
    """Tokens of the prompt, by the tokenizer alone."""
    try:
        return await count_chat(context, form.fields, asked.report, asked.caller.name)
    except (ApiError, RequestError) as error:
        raise form.names.error(error) from None
    finally:
        form.names.notices(asked.report)
