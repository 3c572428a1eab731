"""POST /v1/responses, what its prompt would measure (/input_tokens), and /compact."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.errors import RequestError
from inferplane.server.answers.frames import encode
from inferplane.server.answers.logprobs import TokenNames
from inferplane.server.answers.responses import ResponseAnswer, response_head, wants_summary
from inferplane.server.answers.responses_items import ItemWriter
from inferplane.server.chat_order import ChatOrder, count_chat, prepare_chat
from inferplane.server.context import ServerContext, Serving
from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.handling import Asked, answer_headers, ask, finish, handle_json
from inferplane.server.routes.responses_background import BackgroundRuns
from inferplane.server.routes.responses_compact import Compactor, check_compaction
from inferplane.server.routes.responses_stored import stored_routes
from inferplane.server.routing import ScopedRoute
from inferplane.server.sampling import check_sampling
from inferplane.server.schema.renaming import Renaming
from inferplane.server.schema.report import Report
from inferplane.server.schema.responses import (
    LOGPROBS,
    compacted_structure,
    counted_structure,
    responses_structure,
)
from inferplane.server.schema.responses_chat import (
    chat_fields,
    chat_messages,
    input_items,
    renaming,
)
from inferplane.server.schema.responses_tools import custom_names
from inferplane.server.schema.structured import check_constraint
from inferplane.server.schema.tools import check_tools
from inferplane.server.stored.responses import StoredResponses

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The route, with its table of fields, and those of stored answers."""
    structure = responses_structure(context.limits)
    counted = counted_structure(context.limits)
    limits = context.limits
    stored = StoredResponses(
        context.state, limits.stored_responses, limits.stored_bytes, limits.stored_s
    )
    maker = _Maker(context, stored, BackgroundRuns(context), renaming(limits))

    async def respond(request: Request) -> Response:
        try:
            return await handle_json(context, structure, request, _check, maker.answer)
        except (ApiError, RequestError) as error:
            raise maker.names.error(error) from None

    async def count(request: Request) -> Response:
        asked = await ask(context, counted, request, _check)
        try:
            number = await unless_client_leaves(request.receive, maker.count(asked))
        except (ApiError, RequestError) as error:
            raise maker.names.error(error) from None
        body = encode({"object": "response.input_tokens", "input_tokens": number})
        headers = answer_headers(context, asked)
        return Response(body, media_type="application/json", headers=headers)

    compactor = Compactor(context, maker.items)
    compacted = compacted_structure(limits)

    async def compact(request: Request) -> Response:
        try:
            return await handle_json(
                context, compacted, request, check_compaction, compactor.answer
            )
        except (ApiError, RequestError) as error:
            raise maker.names.error(error) from None

    paths = {"": respond, "/input_tokens": count, "/compact": compact}
    made = [
        ScopedRoute("/v1/responses" + path, endpoint, methods=["POST"], scope="infer")
        for path, endpoint in paths.items()
    ]
    return [*made, *stored_routes(stored, maker.runs)]


def _check(found: Mapping[str, Any], report: Report) -> None:
    """Rules between fields, those of chats among them."""
    if report.problems:
        return
    chat = chat_fields(found)
    check_tools(chat, report)
    check_constraint(chat, report)
    check_sampling(found, report)
    if found.get("background") and not found.get("store", True):
        report.wrong("conflicting_fields", "background", "background needs store: true")
    for index, name in enumerate(found.get("include") or ()):
        if name != LOGPROBS:
            report.notice("ignored_field", f"include.{index}", "there is nothing of that kind")


class _Maker:
    """Makes answers: conversation, order, and the form they are told in."""

    def __init__(
        self,
        context: ServerContext,
        stored: StoredResponses,
        runs: BackgroundRuns,
        names: Renaming,
    ) -> None:
        self.context = context
        self.stored = stored
        self.runs = runs
        self.names = names

    async def answer(self, asked: Asked, serving: Serving) -> Response:
        """Answer a checked request."""
        found = asked.found
        items = await self.items(asked)
        order = await self._order(asked, serving, items)
        self.names.notices(asked.report)
        response = self._answer(asked, serving, order, items)
        if not found.get("background"):
            return await finish(self.context, asked, order.generation, response)
        headers = answer_headers(self.context, asked)
        return await self.runs.start(asked, response, headers)

    async def count(self, asked: Asked) -> int:
        """Tokens of the prompt that an equal request would have."""
        items = await self.items(asked)
        chat = _chat(asked.found, items)
        number = await count_chat(self.context, chat, asked.report, asked.caller.name)
        self.names.notices(asked.report)
        return number

    def _answer(
        self, asked: Asked, serving: Serving, order: ChatOrder, items: Sequence[Mapping[str, Any]]
    ) -> ResponseAnswer:
        found = asked.found
        id = "resp_" + secrets.token_hex(24)
        head = response_head(id, found, asked.model_name, order.generation)
        writer = ItemWriter(
            found.get("stream", False),
            custom_names(found.get("tools") or ()),
            summarise=wants_summary(found),
        )
        names = None if _logprobs(found) is None else TokenNames(serving.model.tokenizer)
        keep = partial(self.stored.put, asked.caller.name, items=items)
        if not found.get("store", True):
            keep = partial(_forget)
        return ResponseAnswer(head, order.generation, order.reader(), writer, names, keep)

    async def items(self, asked: Asked) -> list[dict[str, Any]]:
        """The whole conversation: what was stored, then what is new. Raises ApiError."""
        found, owner = asked.found, asked.caller.name
        items: list[dict[str, Any]] = []
        if (id := found.get("previous_response_id")) is not None:
            before = await self.stored.get(owner, id)
            if before is None or before.answer["status"] in ("queued", "in_progress"):
                raise ApiError.of(
                    "previous_response_not_found",
                    "there is no finished answer of that id",
                    "previous_response_id",
                    "answers are kept for an hour; send the conversation as input instead",
                )
            items += before.conversation()
        for index, item in enumerate(input_items(found.get("input", ()))):
            if item["type"] == "item_reference":
                items.append(await self._referred(owner, item["id"], f"input.{index}.id"))
            else:
                items.append(item)
        most = self.context.limits.messages
        if len(items) > most:
            said = f"the conversation has {len(items)} items; at most {most} are accepted"
            raise ApiError.of("too_many_items", said, "input")
        return items

    async def _referred(self, owner: str, id: str, path: str) -> dict[str, Any]:
        item = await self.stored.item(owner, id)
        if item is None:
            raise ApiError.of("unknown_value", f"{path} is no item of a stored answer", path)
        return item

    async def _order(
        self, asked: Asked, serving: Serving, items: Sequence[Mapping[str, Any]]
    ) -> ChatOrder:
        """With `truncation: auto`, the fewest old items are left out that make it fit."""
        if asked.found.get("truncation") != "auto":
            return await self._prepared(asked, serving, items)
        low, high = 0, len(items) - 1
        entries = list(asked.report.warnings.entries)
        while low < high:
            middle = (low + high) // 2
            try:
                await self._prepared(asked, serving, _without(items, middle))
                high = middle
            except ApiError as error:
                if error.code != "context_length_exceeded":
                    raise
                low = middle + 1
            asked.report.warnings.entries[:] = entries
        if low:
            asked.report.warnings.add("prompt_truncated", "input", left_out=low, of=len(items))
        return await self._prepared(asked, serving, _without(items, low))

    async def _prepared(
        self, asked: Asked, serving: Serving, items: Sequence[Mapping[str, Any]]
    ) -> ChatOrder:
        found = asked.found
        return await prepare_chat(
            self.context,
            asked,
            serving,
            _chat(found, items),
            max_tokens=found.get("max_output_tokens"),
            logprobs=_logprobs(found),
        )


def _chat(found: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return chat_fields(found) | {"messages": chat_messages(items, found.get("instructions"))}


def _without(items: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The conversation less its `count` oldest items; results do not outlive their calls, and what
    the system says at the beginning stays."""
    start = 0
    while start < len(items) and items[start].get("role") in ("system", "developer"):
        start += 1
    kept = list(items[start + count :])
    calls = {one["call_id"] for one in kept if str(one["type"]).endswith("_call")}
    return [*items[:start]] + [
        one for one in kept if not str(one["type"]).endswith("_output") or one["call_id"] in calls
    ]


def _logprobs(found: Mapping[str, Any]) -> int | None:
    """How many alternatives are told; None = no log-probabilities at all."""
    top: int = found.get("top_logprobs", 0)
    return top if top or LOGPROBS in (found.get("include") or ()) else None


def _forget(answer: Mapping[str, Any]) -> None:
    """What is not stored."""
