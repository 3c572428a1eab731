"""Checked bodies of Ollama's chat and generate as the fields of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferplane.server.schema.pictures import picture_part
from inferplane.server.schema.renaming import Renaming
from inferplane.server.schema.report import Report

__all__ = [
    "chat_fields",
    "check_context",
    "generate_fields",
    "max_tokens",
    "names_of",
    "wants_load",
]

_RENAMED = {"repeat_penalty": "repetition_penalty"}
_OWN = frozenset(("num_predict", "num_ctx"))
_KEPT = ("logprobs", "top_logprobs", "tools")


def names_of(messages: str) -> Renaming:
    """How paths of a chat are told; `messages` is where the conversation came from."""
    options = ("temperature", "top_p", "top_k", "min_p", "seed", "stop")
    penalties = ("presence_penalty", "frequency_penalty")
    return Renaming(
        [
            ("response_format.json_schema.schema", "format"),
            ("response_format", "format"),
            ("reasoning_effort", "think"),
            ("max_tokens", "options.num_predict"),
            ("repetition_penalty", "options.repeat_penalty"),
            ("messages", messages),
            *((name, f"options.{name}") for name in (*options, *penalties)),
        ]
    )


def wants_load(found: Mapping[str, Any]) -> bool:
    """Whether nothing is asked but that the model be there."""
    return not found.get("messages") and not found.get("prompt")


def max_tokens(found: Mapping[str, Any]) -> int | None:
    """Most tokens; None = what fits."""
    asked: int = (found.get("options") or {}).get("num_predict", -1)
    return asked if asked > 0 else None


def chat_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chat with these messages."""
    return _shared(found) | {"messages": _messages(found.get("messages") or ())}


def generate_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chat of one question."""
    content = _content(found.get("prompt", ""), found, "images")
    messages = [{"role": "user", "content": content}]
    if found.get("system"):
        messages.insert(0, {"role": "system", "content": found["system"]})
    return _shared(found) | {"messages": messages}


def check_context(found: Mapping[str, Any], served: int, report: Report) -> None:
    """Tell when the served context is shorter than what is wanted."""
    wanted = (found.get("options") or {}).get("num_ctx", 0)
    if wanted > served:
        report.notice("clamped", "options.num_ctx", f"the context is {served}", to=served)


def _shared(found: Mapping[str, Any]) -> dict[str, Any]:
    options = found.get("options") or {}
    fields = {_RENAMED.get(k, k): v for k, v in options.items() if k not in _OWN}
    fields |= {name: found[name] for name in _KEPT if found.get(name)}
    think, form = found.get("think"), found.get("format")
    if think is False:
        fields["reasoning_effort"], fields["include_reasoning"] = "none", False
    elif think is not None:
        fields["reasoning_effort"] = "medium" if think is True else think
    if form == "json":
        fields["response_format"] = {"type": "json_object"}
    elif form:
        schema = {"name": "answer", "schema": form}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _messages(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with ids on calls and results; results without one follow the calls' order."""
    made: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for number, message in enumerate(given):
        content = _content(message.get("content", ""), message, f"messages.{number}.images")
        one: dict[str, Any] = {"role": message["role"], "content": content}
        if "thinking" in message:
            one["reasoning"] = message["thinking"]
        if message.get("tool_calls"):
            calls = [
                _call(c, f"call{number:02d}{k:03d}") for k, c in enumerate(message["tool_calls"])
            ]
            one["tool_calls"] = calls
            open_calls += [(call["id"], call["function"]["name"]) for call in calls]
        if message["role"] == "tool":
            one |= _reference(message, open_calls)
        made.append(one)
    return made


def _content(text: str, holder: Mapping[str, Any], path: str) -> str | list[dict[str, Any]]:
    """The text; after the pictures of `holder`, if it has some."""
    pictures = [
        picture_part(f"{path}.{place}", path, base64=data)
        for place, data in enumerate(holder.get("images") or ())
    ]
    return [*pictures, {"type": "text", "text": text}] if pictures else text


def _call(call: Mapping[str, Any], id: str) -> dict[str, Any]:
    function = {key: call["function"][key] for key in ("name", "arguments")}
    return {"id": call.get("id") or id, "type": "function", "function": function}


def _reference(message: Mapping[str, Any], open_calls: list[tuple[str, str]]) -> dict[str, Any]:
    """Which call a result belongs to: by id, else by name, else the first without a result."""
    id, name = message.get("tool_call_id"), message.get("tool_name")
    fits = [c for c in open_calls if id == c[0]] or [c for c in open_calls if name == c[1]]
    chosen = (fits or open_calls or [(id or "", name or "")])[0]
    if chosen in open_calls:
        open_calls.remove(chosen)
    told = {"tool_call_id": id or chosen[0], "name": name or chosen[1]}
    return {key: value for key, value in told.items() if value}
