"""A checked body of /v1/messages as the fields of a chat: blocks become messages, names ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferplane.server.schema.pictures import picture_part
from inferplane.server.schema.renaming import Renaming
from inferplane.server.schema.report import Report

__all__ = ["ChatForm", "chat_form"]

_SAME = ("temperature", "top_p", "top_k", "stream")
_ATTRIBUTION = "x-anthropic-billing-header:"
"""Begins the line that an agent puts first in its system text. It differs from request to request,
so that with it no prefix would ever be found in the cache."""
_PLACES: Mapping[str, frozenset[str]] = {
    "user": frozenset(("text", "document", "image", "tool_result")),
    "assistant": frozenset(("text", "tool_use", "thinking", "redacted_thinking")),
    "system": frozenset(("text", "document")),
}


@dataclass(frozen=True, slots=True)
class ChatForm:
    """The fields by the names of chat completions, and how to tell them by their own."""

    fields: dict[str, Any]
    names: Renaming


def chat_form(found: Mapping[str, Any], report: Report, *, keep_attribution: bool) -> ChatForm:
    """The form of a body without problems; what blocks may not stand where is reported."""
    fields = {name: found[name] for name in _SAME if name in found}
    if "stop_sequences" in found:
        fields["stop"] = found["stop_sequences"]
    turns = _Turns(report)
    if system := _system(found.get("system"), keep_attribution):
        turns.add("system", [system])
    for index, message in enumerate(found["messages"]):
        turns.take(message, f"messages.{index}.content")
    fields["messages"] = turns.messages
    if turns.continues:
        fields["continue_final_message"] = True
    names = [*_tools(found, fields, report), *_thinking(found, fields), *_output(found, fields)]
    names.append(("stop", "stop_sequences"))
    return ChatForm(fields, Renaming(names))


def _system(given: str | Sequence[Mapping[str, Any]] | None, keep_attribution: bool) -> str:
    texts = [given] if isinstance(given, str) else [block["text"] for block in given or ()]
    if texts and texts[0].startswith(_ATTRIBUTION) and not keep_attribution:
        texts[0] = texts[0].partition("\n")[2]
    return "\n".join(text for text in texts if text)


@dataclass(slots=True)
class _Turns:
    """The messages so far; what one role says in a row is one message."""

    report: Report
    messages: list[dict[str, Any]] = field(default_factory=list)
    _tool_names: dict[str, str] = field(default_factory=dict)

    @property
    def continues(self) -> bool:
        """The last message is the beginning of the answer."""
        if not self.messages:
            return False
        last = self.messages[-1]
        text = last["role"] == "assistant" and "tool_calls" not in last and last["content"]
        return bool(text)

    def take(self, message: Mapping[str, Any], path: str) -> None:
        """Add one message of the body."""
        role, content = message["role"], message["content"]
        if isinstance(content, str):
            self.add(role, [content])
            return
        for place, block in enumerate(content):
            if block["type"] not in _PLACES[role]:
                where = f"{path}.{place}.type"
                said = f"{where}: a block of type {block['type']} has no place in a {role} message"
                self.report.wrong("unknown_value", where, said)
                return
        if role == "assistant":
            self._say(content)
        else:
            self._hear(role, content, path)

    def add(self, role: str, said: Sequence[str | dict[str, Any]]) -> dict[str, Any]:
        """The message of a role's texts and pictures: the last one if it is the same role's."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != role or "tool_calls" in last:
            last = {"role": role, "content": ""}
            self.messages.append(last)
        last["content"] = _together(last["content"], said)
        return last

    def _hear(self, role: str, blocks: Sequence[Mapping[str, Any]], path: str) -> None:
        said: list[str | dict[str, Any]] = []
        for place, block in enumerate(blocks):
            if block["type"] == "tool_result":
                if said:
                    self.add(role, said)
                    said = []
                self.messages.append(self._result(block))
            elif block["type"] == "image":
                said.append(_picture(block["source"], f"{path}.{place}"))
            else:
                said.append(_text(block))
        if said or not blocks:
            self.add(role, said)

    def _result(self, block: Mapping[str, Any]) -> dict[str, Any]:
        content = block.get("content", "")
        text = content if isinstance(content, str) else "\n".join(map(_text, content))
        id = block["tool_use_id"]
        made = {
            "role": "tool",
            "tool_call_id": id,
            "content": f"Error: {text}" if block.get("is_error") else text,
        }
        return {**made, "name": self._tool_names[id]} if id in self._tool_names else made

    def _say(self, blocks: Sequence[Mapping[str, Any]]) -> None:
        thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
        calls = [self._call(block) for block in blocks if block["type"] == "tool_use"]
        made = self.add("assistant", [b["text"] for b in blocks if b["type"] == "text"])
        if thoughts:
            made["reasoning"] = "\n".join(filter(None, (made.get("reasoning"), *thoughts)))
        if calls:
            made["tool_calls"] = calls

    def _call(self, block: Mapping[str, Any]) -> dict[str, Any]:
        self._tool_names[block["id"]] = block["name"]
        function = {"name": block["name"], "arguments": block["input"]}
        return {"id": block["id"], "type": "function", "function": function}


def _together(
    before: str | list[dict[str, Any]], said: Sequence[str | dict[str, Any]]
) -> str | list[dict[str, Any]]:
    """Content with more of it: a text, or parts where there is a picture."""
    first = [before] if isinstance(before, str) else before
    every = [one for one in (*first, *said) if one]
    texts = [one for one in every if isinstance(one, str)]
    if len(texts) == len(every):
        return "\n".join(texts)
    return [{"type": "text", "text": one} if isinstance(one, str) else one for one in every]


def _picture(source: Mapping[str, Any], path: str) -> dict[str, Any]:
    if source["type"] == "url":
        return picture_part(path, url=source["url"])
    return picture_part(path, base64=source["data"])


def _text(block: Mapping[str, Any]) -> str:
    """The text of a text or document block."""
    if block["type"] == "text":
        return str(block["text"])
    parts = (block.get("title"), block.get("context"), block["source"]["data"])
    return "\n".join(part for part in parts if part)


def _tools(
    found: Mapping[str, Any], fields: dict[str, Any], report: Report
) -> Iterator[tuple[str, str]]:
    """Sets tools and the choice; yields how paths of tools are told."""
    offered: list[dict[str, Any]] = []
    for place, tool in enumerate(found.get("tools") or ()):
        if "input_schema" not in tool:
            continue
        yield f"tools.{len(offered)}.function.parameters", f"tools.{place}.input_schema"
        offered.append({"type": "function", "function": _function(tool)})
    if offered:
        fields["tools"] = offered
    choice = found.get("tool_choice")
    if choice is None:
        return
    kind = choice["type"]
    if kind in ("any", "tool") and not offered:
        report.wrong("conflicting_fields", "tool_choice", "tool_choice needs tools to choose from")
    elif kind == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    else:
        fields["tool_choice"] = "required" if kind == "any" else kind
    fields["parallel_tool_calls"] = not choice.get("disable_parallel_tool_use", False)


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    made = {"name": tool["name"], "parameters": tool["input_schema"]}
    return made | {key: tool[key] for key in ("description", "strict") if key in tool}


def _thinking(found: Mapping[str, Any], fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Sets whether, how hard and how long the model thinks; absent fields leave it to the template
    and the model."""
    given = found.get("thinking") or {}
    kind = given.get("type")
    if "budget_tokens" in given:
        fields["thinking_token_budget"] = given["budget_tokens"]
    yield "thinking_token_budget", "thinking.budget_tokens"
    effort = (found.get("output_config") or {}).get("effort")
    if kind == "disabled":
        fields["reasoning_effort"], fields["include_reasoning"] = "none", False
    elif effort is not None or kind == "enabled":
        fields["reasoning_effort"] = effort or "medium"
    yield "reasoning_effort", "thinking" if effort is None else "output_config.effort"


def _output(found: Mapping[str, Any], fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Sets the schema of the answer; the newer name wins."""
    form, name = (found.get("output_config") or {}).get("format"), "output_config.format"
    if form is None:
        form, name = found.get("output_format"), "output_format"
    if form is not None:
        schema = {"name": "answer", "schema": form["schema"]}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    yield "response_format.json_schema.schema", f"{name}.schema"
    yield "response_format", name
