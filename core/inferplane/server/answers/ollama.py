"""Ollama's answers: one object, or a line of JSON for each piece and one for the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from inferplane.engine.messages import TokenLogprobs
from inferplane.request import FinishReason
from inferplane.server.answers.chat_events import ChoiceReader, call_id
from inferplane.server.answers.frames import Framing, encode
from inferplane.server.answers.logprobs import TokenNames, chat_logprobs
from inferplane.server.answers.usage import usage
from inferplane.server.errors import ApiError, error_object
from inferplane.server.generation import Choice, Generation
from inferplane.server.tools.events import Content, Event, Reasoning, ToolCall
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["OllamaAnswer", "OllamaForm", "loaded", "now"]


def now() -> str:
    """The time of day as RFC 3339 has it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class OllamaForm:
    """How a route's pieces look."""

    model: str
    chat: bool
    """A message; otherwise `response`."""
    names: TokenNames | None = None
    """For log-probabilities, when asked for."""

    def piece(self, piece: _Piece) -> dict[str, Any]:
        """The members that hold an output, or part of one."""
        if not self.chat:
            made: dict[str, Any] = {"response": piece.text}
            return made | ({"thinking": piece.thought} if piece.thought else {})
        message: dict[str, Any] = {"role": "assistant", "content": piece.text}
        if piece.thought:
            message["thinking"] = piece.thought
        if piece.calls:
            message["tool_calls"] = [_call(call) for call in piece.calls]
        return {"message": message}


@dataclass(slots=True)
class _Piece:
    """What is new, or everything."""

    text: str = ""
    thought: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Content):
                self.text += event.text
            elif isinstance(event, Reasoning):
                self.thought += event.text
            else:
                self.calls.append(event)

    def __bool__(self) -> bool:
        return bool(self.text or self.thought or self.calls)


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = msgspec.Raw(call.arguments.encode())
    return {"id": call_id(), "function": {"name": call.name, "arguments": arguments}}


def loaded(form: OllamaForm, reason: str) -> bytes:
    """The answer to a request that only wants the model to be there."""
    head = {"model": form.model, "created_at": now()}
    return encode(head | form.piece(_Piece()) | {"done": True, "done_reason": reason})


class OllamaAnswer(Framing):
    """Renders one request's answer."""

    media_type = b"application/x-ndjson"
    terminal = b""
    ping = b""
    """Every line is read as an object: silence stays silent."""

    def __init__(self, form: OllamaForm, generation: Generation, reader: ChoiceReader) -> None:
        self.form = form
        self.generation = generation
        self._reader = reader
        self._finish = FinishReason.STOP

    def _read(self, piece: _Piece, delta: TextDelta) -> None:
        piece.take(self._reader.read(delta))
        if delta.finish is not None:
            self._finish = delta.finish

    def _line(self, piece: _Piece, **more: object) -> dict[str, Any]:
        made = {"model": self.form.model, "created_at": now()} | self.form.piece(piece)
        _, logprobs = self._reader.take_tokens()
        if self.form.names is not None and logprobs:
            made["logprobs"] = self._logprobs(logprobs, self.form.names)
        return made | more

    def _logprobs(self, entries: Sequence[TokenLogprobs], names: TokenNames) -> object:
        return chat_logprobs(entries, names)["content"]

    def _end(self) -> dict[str, object]:
        """Reason, counts, and times in nanoseconds."""
        counts, choice = usage(self.generation), self.generation.choices[0]
        decode_s = 0.0 if choice.first_s is None else choice.last_s - choice.first_s
        return {
            "done": True,
            "done_reason": "length" if self._finish is FinishReason.LENGTH else "stop",
            "total_duration": _ns(time.monotonic() - self.generation.order.began),
            "load_duration": 0,
            "prompt_eval_count": counts["prompt_tokens"],
            "prompt_eval_duration": _ns(choice.prefill_s),
            "eval_count": counts["completion_tokens"],
            "eval_duration": _ns(decode_s),
        }

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when the sequence fails."""
        piece = _Piece()
        async for _, delta in self.generation.events():
            self._read(piece, delta)
        return encode(self._line(piece, **self._end()))

    def begin(self) -> bytes:
        """Nothing: lines begin with the first piece."""
        return b""

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """A line for what is new."""
        piece = _Piece()
        self._read(piece, delta)
        return encode(self._line(piece, done=False)) + b"\n" if piece else b""

    def end(self) -> bytes:
        """The last line."""
        return encode(self._line(_Piece(), **self._end())) + b"\n"

    def failure(self, error: ApiError, request_id: str) -> bytes:
        """The last line of a stream that fails."""
        return encode(error_object(error, "ollama", request_id)) + b"\n"


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
