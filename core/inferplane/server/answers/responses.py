"""Responses on the wire: one object, or events that end in the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from inferplane.request import FinishReason
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.frames import Framing, encode
from inferplane.server.answers.logprobs import TokenNames, chat_logprobs
from inferplane.server.answers.responses_items import ItemWriter
from inferplane.server.answers.usage import usage
from inferplane.server.errors import ApiError
from inferplane.server.generation import Choice, Generation
from inferplane.server.tools.events import Content, Reasoning
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["ResponseAnswer", "response_head", "response_usage", "wants_summary"]


def response_head(
    id: str, found: Mapping[str, Any], model: str, generation: Generation
) -> dict[str, Any]:
    """Every member of an answer that does not depend on its output."""
    params = generation.order.params
    reasoning = found.get("reasoning") or {}
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "queued" if found.get("background") else "in_progress",
        "background": found.get("background", False),
        "error": None,
        "incomplete_details": None,
        "instructions": found.get("instructions"),
        "max_output_tokens": found.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": found.get("parallel_tool_calls", True),
        "previous_response_id": found.get("previous_response_id"),
        "prompt_cache_key": found.get("prompt_cache_key"),
        "reasoning": {
            "effort": reasoning.get("effort"),
            "summary": "detailed" if wants_summary(found) else None,
        },
        "safety_identifier": found.get("safety_identifier"),
        "service_tier": "default",
        "store": found.get("store", True),
        "temperature": params.temperature,
        "text": {"format": _format(found), "verbosity": "medium"},
        "tool_choice": found.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in found.get("tools") or () if tool is not None],
        "top_logprobs": found.get("top_logprobs", 0),
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "truncation": found.get("truncation", "disabled"),
        "usage": None,
        "user": found.get("user"),
        "metadata": found.get("metadata") or {},
    }


def response_usage(generation: Generation) -> dict[str, Any]:
    """The `usage` object, by the names of this dialect."""
    counts: dict[str, Any] = usage(generation)
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": counts["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": counts["completion_tokens_details"],
        "total_tokens": counts["total_tokens"],
    }


def wants_summary(found: Mapping[str, Any]) -> bool:
    """Whether thoughts are asked for in the form of a summary."""
    reasoning = found.get("reasoning") or {}
    return any(reasoning.get(name) for name in ("summary", "generate_summary"))


def _format(found: Mapping[str, Any]) -> dict[str, Any]:
    form = dict((found.get("text") or {}).get("format") or {"type": "text"})
    if form["type"] == "json_schema":
        form = {"description": None, "strict": True, **form}
    return form


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"] == "custom":
        return {"description": None, "format": {"type": "text"}, **tool}
    return {"description": None, "parameters": None, "strict": False, **tool}


class ResponseAnswer(Framing):
    """Renders one response. `on_end` gets the whole object when it has ended, before anybody
    is told of it."""

    def __init__(
        self,
        head: dict[str, Any],
        generation: Generation,
        reader: ChoiceReader,
        writer: ItemWriter,
        names: TokenNames | None,
        on_end: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`names` writes tokens in log-probabilities; None = none are asked for."""
        self.object = head
        self.generation = generation
        self._reader = reader
        self._writer = writer
        self._names = names
        self._on_end = on_end

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when the sequence fails."""
        async for choice, delta in self.generation.events():
            self._take(choice, delta)
        self._complete()
        return encode(self.object)

    def begin(self) -> bytes:
        """The first events."""
        self._writer.emit("response.created", response=self.object)
        if self.object["status"] == "queued":
            self._writer.emit("response.queued", response=self.object)
            self.object["status"] = "in_progress"
        self._writer.emit("response.in_progress", response=self.object)
        return self._writer.take_frames()

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Events of what is new."""
        self._take(choice, delta)
        return self._writer.take_frames()

    def end(self) -> bytes:
        """The last event, with the whole object."""
        self._complete()
        self._writer.emit(f"response.{self.object['status']}", response=self.object)
        return self._writer.take_frames()

    def failure(self, error: ApiError, request_id: str) -> bytes:
        """`error`, then `response.failed`."""
        first = error.problems[0]
        self._writer.emit("error", code=first.code, message=first.message, param=first.param)
        self._finish("failed", error={"code": first.code, "message": first.message})
        self._writer.emit("response.failed", response=self.object)
        return self._writer.take_frames()

    def store(self) -> None:
        """Make it known before it has ended."""
        self._on_end(self.object)

    def cancel(self) -> None:
        """End it as cancelled."""
        self._finish("cancelled")

    def _take(self, choice: Choice, delta: TextDelta) -> None:
        events = self._reader.read(delta)
        _, entries = self._reader.take_tokens() if events else ([], [])
        told: list[object] = []
        if self._names is not None and entries:
            told = chat_logprobs(entries, self._names)["content"]  # type: ignore[assignment]
        for event in events:
            if isinstance(event, Content):
                self._writer.text(event.text, told)
                told = []
            elif isinstance(event, Reasoning):
                self._writer.reasoning(event.text)
            else:
                self._writer.call(event)
        if delta.finish is not None:
            self._end_items(choice, delta.finish)

    def _end_items(self, choice: Choice, finish: FinishReason) -> None:
        tokenizer = self.generation.serving.model.tokenizer
        if text := "".join(self._reader.thoughts):
            choice.reasoning_tokens = len(tokenizer.encode(text))
        if not self._writer.items:  # nothing was said, which is a message without text
            self._writer.text("", [])
        cut = finish is FinishReason.LENGTH
        self._writer.close("incomplete" if cut else "completed")
        if cut and not self._reader.num_calls:
            self.object["incomplete_details"] = {"reason": "max_output_tokens"}

    def _complete(self) -> None:
        if self._reader.unparsed:
            self.object["warnings"] = ["tool_call_unparsed"]
        self._finish("incomplete" if self.object["incomplete_details"] else "completed")

    def _finish(self, status: str, **members: object) -> None:
        self._writer.close("incomplete")
        self.object |= {"status": status, "output": self._writer.items, **members}
        self.object["usage"] = response_usage(self.generation)
        if status == "completed":
            self.object["completed_at"] = int(time.time())
        self._on_end(self.object)
