"""POST /v1/responses/compact: a conversation becomes what its user said, and one summary."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs
from starlette.responses import Response

from inferplane.server.answers.frames import Framing, encode
from inferplane.server.answers.responses import response_usage
from inferplane.server.chat_order import ChatOrder, prepare_chat
from inferplane.server.context import ServerContext, Serving
from inferplane.server.generation import Choice
from inferplane.server.handling import Asked, finish
from inferplane.server.schema.compaction import seal
from inferplane.server.schema.report import Report
from inferplane.server.schema.responses_chat import chat_messages
from inferplane.server.tools.events import Content
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["Compactor", "check_compaction"]

_MOST_TOKENS = 1024
"""Of a summary, where the context has room for so many."""
_ASK = (
    "Summarise this conversation for the assistant that will continue it without seeing it: what "
    "was asked for, decided, found and done, what is still open, and every name, number and path "
    "that matters. Write the summary alone."
)

Items = list[dict[str, Any]]


def check_compaction(found: Mapping[str, Any], report: Report) -> None:
    """There must be something to compact."""
    if not report.problems and "input" not in found and "previous_response_id" not in found:
        report.wrong("missing_field", "input", "input is missing", "or send previous_response_id")


@dataclass(frozen=True, slots=True)
class Compactor:
    """Makes compactions; `items` gathers the conversation of a checked request."""

    context: ServerContext
    items: Callable[[Asked], Awaitable[Items]]

    async def answer(self, asked: Asked, serving: Serving) -> Response:
        """Answer a checked request."""
        items = await self.items(asked)
        messages = _asking(chat_messages(items, asked.found.get("instructions")))
        order = await prepare_chat(
            self.context,
            asked,
            serving,
            {"messages": messages, "temperature": 0.0},
            max_tokens=None,
            logprobs=None,
        )
        _bound(order, serving.info.max_model_len)
        return await finish(self.context, asked, order.generation, _CompactedAnswer(order, items))


def _asking(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with the wish for a summary as the user's last words."""
    last = messages[-1] if messages else {"role": ""}
    if last["role"] != "user":
        return [*messages, {"role": "user", "content": _ASK}]
    said = last["content"]
    if isinstance(said, list):
        return [*messages[:-1], {**last, "content": [*said, {"type": "text", "text": _ASK}]}]
    return [*messages[:-1], {**last, "content": f"{said}\n\n{_ASK}"}]


def _bound(order: ChatOrder, max_len: int) -> None:
    """Models that ramble stop at a length that is still worth it."""
    asked = order.generation.order
    room = max_len - len(asked.prompts[0].ids)
    params = structs.replace(asked.params, max_tokens=min(room, _MOST_TOKENS))
    order.generation.order = replace(asked, params=params)


class _CompactedAnswer(Framing):
    """The body: all messages of the user, then the summary."""

    def __init__(self, order: ChatOrder, items: Sequence[Mapping[str, Any]]) -> None:
        self._generation = order.generation
        self._reader = order.reader()
        self._items = items
        self._texts: list[str] = []

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when the sequence fails."""
        async for choice, delta in self._generation.events():
            self.delta(choice, delta)
        kept = [dict(item) for item in self._items if item.get("role") == "user"]
        summary = {
            "id": "cmp_" + secrets.token_hex(16),
            "type": "compaction",
            "encrypted_content": seal("".join(self._texts).strip()),
        }
        return encode(
            {
                "id": "resp_" + secrets.token_hex(24),
                "object": "response.compaction",
                "created_at": int(time.time()),
                "output": [*kept, summary],
                "usage": response_usage(self._generation),
            }
        )

    def begin(self) -> bytes:
        """Never streamed."""
        return b""

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Take what is new; thoughts are no part of the summary."""
        events = self._reader.read(delta)
        self._texts += [event.text for event in events if isinstance(event, Content)]
        if delta.finish is not None and (thought := "".join(self._reader.thoughts)):
            encode_ids = self._generation.serving.model.tokenizer.encode
            choice.reasoning_tokens = len(encode_ids(thought))
        return b""

    def end(self) -> bytes:
        """Never streamed."""
        return b""
