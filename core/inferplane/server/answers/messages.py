"""Messages on the wire: one body of blocks, or named events that join to the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from inferplane.server.answers.chat_events import ChoiceReader, call_id
from inferplane.server.answers.frames import Framing, encode, event, json_text
from inferplane.server.answers.usage import usage
from inferplane.server.errors import ApiError, error_object
from inferplane.server.generation import Choice, Generation
from inferplane.server.tools.events import Content, Event, Reasoning, ToolCall
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["MessagesAnswer"]

_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"%s","%s":%s}}\n\n'
)
_HOSTED_USAGE = {"cache_creation": None, "inference_geo": None, "service_tier": "standard"}
"""Members that clients of the hosted API may look for."""
_STOPS = {"tool_calls": "tool_use", "length": "max_tokens"}


@dataclass(slots=True)
class _Block:
    """A block of text or thoughts that is being written."""

    kind: type[Content] | type[Reasoning]
    texts: list[str] = field(default_factory=list)

    def empty(self) -> dict[str, object]:
        """As it begins on the wire."""
        if self.kind is Content:
            return {"type": "text", "text": "", "citations": None}
        return {"type": "thinking", "thinking": "", "signature": ""}

    def whole(self) -> dict[str, object]:
        """As it is when it has ended."""
        text = "".join(self.texts)
        if self.kind is Content:
            return {"type": "text", "text": text, "citations": None}
        return {"type": "thinking", "thinking": text, "signature": self.signature()}

    def signature(self) -> str:
        """Clients send it back with the thought; it is the thought's digest and never checked."""
        return hashlib.sha256("".join(self.texts).encode()).hexdigest()

    def delta(self, index: int, text: str) -> bytes:
        """The event that adds a text."""
        self.texts.append(text)
        kind, member = (
            (b"text_delta", b"text") if self.kind is Content else (b"thinking_delta", b"thinking")
        )
        return _DELTA % (index, kind, member, json_text(text))


class MessagesAnswer(Framing):
    """Renders one request's answer in the shape of the Messages API."""

    terminal = b""
    """`message_stop` ends a good stream; a failed one ends with its error."""
    ping = event("ping", {"type": "ping"})

    def __init__(
        self,
        id: str,
        model: str,
        generation: Generation,
        reader: ChoiceReader,
        count: Callable[[str], int],
    ) -> None:
        """`count` tells how many tokens a text has."""
        self.id = id
        self.model = model
        self.generation = generation
        self._reader = reader
        self._count = count
        self._open: _Block | None = None
        self._index = 0
        self._end = TextDelta()

    def _message(self) -> dict[str, object]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": self._usage() | _HOSTED_USAGE,
        }

    def _usage(self) -> dict[str, object]:
        """Tokens found in the cache stand apart from those that were computed."""
        counts = usage(self.generation)
        prompt, made = counts["prompt_tokens"], counts["completion_tokens"]
        assert isinstance(prompt, int)
        cached = sum(choice.cached_tokens for choice in self.generation.choices)
        return {
            "input_tokens": prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": made,
            "output_tokens_details": {"thinking_tokens": self._thinking_tokens()},
            "server_tool_use": None,
        }

    def _thinking_tokens(self) -> int:
        """Thoughts count as the tokens their text has."""
        thoughts = "".join(self._reader.thoughts) if self._end.finish is not None else ""
        return self._count(thoughts) if thoughts else 0

    def _stop(self) -> dict[str, object]:
        end = self._end
        assert end.finish is not None
        if isinstance(end.stop_reason, str) and not self._reader.num_calls:
            return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_reason}
        name = self._reader.finish_name(end.finish)
        return {"stop_reason": _STOPS.get(name, "end_turn"), "stop_sequence": None}

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when the sequence fails."""
        blocks: list[_Block | ToolCall] = []
        async for _, delta in self.generation.events():
            for one in self._reader.read(delta):
                _collect(blocks, one)
            if delta.finish is not None:
                self._end = delta
        content = [_use(b) if isinstance(b, ToolCall) else b.whole() for b in blocks]
        body = self._message() | self._stop()
        body["content"] = content or [_Block(Content).whole()]
        return encode(body)

    def begin(self) -> bytes:
        """`message_start`, and a ping as the original sends it."""
        start = {"type": "message_start", "message": self._message()}
        return event("message_start", start) + self.ping

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Events for what is new."""
        frames = [self._tell(one) for one in self._reader.read(delta)]
        if delta.finish is not None:
            self._end = delta
            frames.append(self._last_block())
        return b"".join(frames)

    def _tell(self, one: Event) -> bytes:
        if isinstance(one, ToolCall):
            return self._close() + self._call(one)
        kind = type(one)
        begun = b""
        if self._open is None or self._open.kind is not kind:
            begun = self._close()
            self._open = _Block(kind)
            begun += self._start(self._open.empty())
        return begun + self._open.delta(self._index, one.text)

    def _call(self, call: ToolCall) -> bytes:
        arguments = json_text(call.arguments)
        parts = (
            self._start(_use(call) | {"input": {}}),
            _DELTA % (self._index, b"input_json_delta", b"partial_json", arguments),
            self._stop_block(),
        )
        return b"".join(parts)

    def _start(self, block: dict[str, object]) -> bytes:
        told = {"type": "content_block_start", "index": self._index, "content_block": block}
        return event("content_block_start", told)

    def _stop_block(self) -> bytes:
        told = {"type": "content_block_stop", "index": self._index}
        self._index += 1
        return event("content_block_stop", told)

    def _close(self) -> bytes:
        """End the block that is open; thoughts are signed."""
        block, self._open = self._open, None
        if block is None:
            return b""
        signed = b""
        if block.kind is Reasoning:
            signature = json_text(block.signature())
            signed = _DELTA % (self._index, b"signature_delta", b"signature", signature)
        return signed + self._stop_block()

    def _last_block(self) -> bytes:
        """End what is open; an answer has at least one block."""
        if self._open is None and self._index == 0:
            return self._start(_Block(Content).empty()) + self._stop_block()
        return self._close()

    def end(self) -> bytes:
        """`message_delta` with the reason and the counts, then `message_stop`."""
        delta = self._stop() | {"stop_details": None, "container": None}
        told = {"type": "message_delta", "delta": delta, "usage": self._usage()}
        return event("message_delta", told) + event("message_stop", {"type": "message_stop"})

    def failure(self, error: ApiError, request_id: str) -> bytes:
        """The last event of a stream that fails."""
        return event("error", error_object(error, "anthropic", request_id))


def _collect(blocks: list[_Block | ToolCall], one: Event) -> None:
    """Add an event's text to the last block, if that is of its kind, or begin another."""
    if isinstance(one, ToolCall):
        blocks.append(one)
        return
    last = blocks[-1] if blocks else None
    if not isinstance(last, _Block) or last.kind is not type(one):
        last = _Block(type(one))
        blocks.append(last)
    last.texts.append(one.text)


def _use(call: ToolCall) -> dict[str, object]:
    arguments = msgspec.Raw(call.arguments.encode())
    return {
        "type": "tool_use",
        "id": call_id("toolu_"),
        "name": call.name,
        "input": arguments,
        "caller": {"type": "direct"},
    }
