"""Output items of a response, made as the output is read; each change is an event."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import jiter

from inferplane.server.answers.chat_events import call_id
from inferplane.server.answers.frames import encode, event
from inferplane.server.schema.responses_tools import CUSTOM_ARGUMENT
from inferplane.server.tools.events import ToolCall

__all__ = ["ItemWriter"]


class ItemWriter:
    """Collects items. With `tell`, what happens is also kept as frames until `take_frames`.

    Sequence numbers rise by one from 0 over all frames of an answer.
    """

    def __init__(
        self,
        tell: bool,
        custom_tools: frozenset[str] = frozenset(),
        *,
        summarise: bool = False,
    ) -> None:
        """`summarise`: thoughts also stand in the item's summary, whole."""
        self.tell = tell
        self._summarise = summarise
        self.items: list[dict[str, Any]] = []
        self._custom = custom_tools
        self._frames: list[bytes] = []
        self._number = 0
        self._open = ""
        """Type of the item that still grows."""
        self._texts: list[str] = []
        self._logprobs: list[object] = []
        self._opening = b""
        """A delta's frame up to its text."""

    def emit(self, kind: str, **members: object) -> None:
        """One event."""
        if self.tell:
            number = self._number
            self._frames.append(event(kind, {"type": kind, **members, "sequence_number": number}))
            self._number += 1

    def take_frames(self) -> bytes:
        """What was told since the last call."""
        taken = b"".join(self._frames)
        self._frames.clear()
        return taken

    def text(self, text: str, logprobs: Sequence[object]) -> None:
        """Text for the user."""
        self._grow("message", text)
        self._logprobs += logprobs
        self._delta(text, b',"logprobs":' + encode(logprobs))

    def reasoning(self, text: str) -> None:
        """What the model thought."""
        self._grow("reasoning", text)
        self._delta(text, b"")

    def call(self, call: ToolCall) -> None:
        """A complete call."""
        self.close("completed")
        custom = call.name in self._custom
        kind = "custom_tool_call" if custom else "function_call"
        member = "input" if custom else "arguments"
        told = _custom_input(call.arguments) if custom else call.arguments
        item: dict[str, Any] = {
            "id": ("ctc_" if custom else "fc_") + secrets.token_hex(16),
            "type": kind,
            "status": "in_progress",
            "call_id": call_id(),
            "name": call.name,
            member: "",
        }
        index = len(self.items)
        self.items.append(item)
        self.emit("response.output_item.added", output_index=index, item=item)
        stem = "response.custom_tool_call_input" if custom else "response.function_call_arguments"
        self.emit(f"{stem}.delta", item_id=item["id"], output_index=index, delta=told)
        done = {member: told} if custom else {"name": call.name, member: told}
        self.emit(f"{stem}.done", item_id=item["id"], output_index=index, **done)
        item |= {"status": "completed", member: told}
        self.emit("response.output_item.done", output_index=index, item=item)

    def close(self, status: str) -> None:
        """End the item that still grows, if any."""
        if not self._open:
            return
        item, text = self.items[-1], "".join(self._texts)
        message = self._open == "message"
        place = {"item_id": item["id"], "output_index": len(self.items) - 1, "content_index": 0}
        if message:
            part = _text_part(text, self._logprobs)
            self.emit("response.output_text.done", **place, text=text, logprobs=part["logprobs"])
        else:
            part = {"type": "reasoning_text", "text": text}
            self.emit("response.reasoning_text.done", **place, text=text)
        self.emit("response.content_part.done", **place, part=part)
        item |= {"status": status, "content": [part]}
        if self._summarise and not message:
            item["summary"] = [self._summary(text, item["id"])]
        self.emit("response.output_item.done", output_index=len(self.items) - 1, item=item)
        self._open = ""

    def _summary(self, text: str, item_id: str) -> dict[str, Any]:
        """The one part of a summary, told in one piece."""
        place = {"item_id": item_id, "output_index": len(self.items) - 1, "summary_index": 0}
        part = {"type": "summary_text", "text": text}
        stem = "response.reasoning_summary"
        self.emit(f"{stem}_part.added", **place, part={**part, "text": ""})
        self.emit(f"{stem}_text.delta", **place, delta=text)
        self.emit(f"{stem}_text.done", **place, text=text)
        self.emit(f"{stem}_part.done", **place, part=part)
        return part

    def _grow(self, kind: str, text: str) -> None:
        if self._open != kind:
            self.close("completed")
            self._begin(kind)
        self._texts.append(text)

    def _begin(self, kind: str) -> None:
        message = kind == "message"
        item: dict[str, Any] = {
            "id": ("msg_" if message else "rs_") + secrets.token_hex(16),
            "type": kind,
            "status": "in_progress",
            **({"role": "assistant"} if message else {"summary": []}),
            "content": [],
        }
        index = len(self.items)
        self.items.append(item)
        self._open, self._texts, self._logprobs = kind, [], []
        self.emit("response.output_item.added", output_index=index, item=item)
        place = {"item_id": item["id"], "output_index": index, "content_index": 0}
        part = _text_part("", []) if message else {"type": "reasoning_text", "text": ""}
        self.emit("response.content_part.added", **place, part=part)
        name = f"response.{'output' if message else 'reasoning'}_text.delta"
        head = encode({"type": name, **place})[:-1]
        self._opening = b"event: %s\ndata: %s" % (name.encode(), head) + b',"delta":'

    def _delta(self, text: str, more: bytes) -> None:
        """The frame of every token: only what changes is encoded."""
        if not self.tell:
            return
        end = b',"sequence_number":%d}\n\n' % self._number
        self._frames.append(b"".join((self._opening, encode(text), more, end)))
        self._number += 1


def _text_part(text: str, logprobs: Sequence[object]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _custom_input(arguments: str) -> str:
    """The one string of a custom tool's call; the whole text where the model wrote another form."""
    found = jiter.from_json(arguments.encode())
    told = found.get(CUSTOM_ARGUMENT) if isinstance(found, dict) else None
    return told if isinstance(told, str) else arguments
