"""What the items and fields of POST /v1/responses are in a chat."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from inferplane.server.limits import Limits
from inferplane.server.schema.compaction import unseal
from inferplane.server.schema.pictures import picture_part
from inferplane.server.schema.renaming import Renaming
from inferplane.server.schema.responses_tools import (
    CUSTOM_ARGUMENT,
    chat_choice,
    chat_tools,
)

__all__ = ["chat_fields", "chat_messages", "input_items", "renaming"]

_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "reasoning": "rs_",
    "compaction": "cmp_",
}
_SUMMARY = "Summary of the conversation so far:\n"
"""Comes before what a compaction stands for, which the assistant says."""
_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "priority",
    "cache_salt",
    "thinking_token_budget",
    "parallel_tool_calls",
)


def renaming(limits: Limits) -> Renaming:
    """Paths of a chat -> paths of this route."""
    return Renaming(
        [
            ("messages", "input"),
            ("max_tokens", "max_output_tokens"),
            ("response_format.json_schema.schema", "text.format.schema"),
            ("response_format", "text.format"),
            ("reasoning_effort", "reasoning.effort"),
            *((f"tools.{n}.function", f"tools.{n}") for n in range(limits.tools)),
        ]
    )


def input_items(given: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked input as items, each with an id and its content as parts."""
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    return [_item(one) for one in given]


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = item["type"]
    if kind == "item_reference":
        return dict(item)
    id = _PREFIXES[kind] + secrets.token_hex(16)
    if kind == "compaction":
        return {"id": id, **item}
    made = {"id": id, "status": "completed", **item}
    if kind == "message" and isinstance(made["content"], str):
        own = made["role"] == "assistant"
        part: dict[str, Any] = {"type": "output_text" if own else "input_text"}
        part["text"] = made["content"]
        made["content"] = [part | ({"annotations": []} if own else {})]
    return made


def chat_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every checked field but the conversation, by the names of a chat."""
    made = {name: found[name] for name in _SAME if name in found}
    if tools := chat_tools(found.get("tools") or ()):
        made["tools"] = tools
    if "tool_choice" in found:
        made["tool_choice"] = chat_choice(found["tool_choice"])
    if effort := (found.get("reasoning") or {}).get("effort"):
        made["reasoning_effort"] = effort
    form = (found.get("text") or {}).get("format")
    if form is not None and form["type"] == "json_schema":
        made["response_format"] = {"type": "json_schema", "json_schema": form}
    elif form is not None:
        made["response_format"] = form
    return made


def chat_messages(
    items: Iterable[Mapping[str, Any]], instructions: str | None
) -> list[dict[str, Any]]:
    """The conversation; what an assistant thought, said and called in one go is one message.

    System messages at the beginning, `instructions` first, are joined to one: templates know no
    more.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for place, item in enumerate(items):
        kind = item["type"]
        if kind == "message" and _has_pictures(item):
            messages.append({"role": item["role"], "content": _parts(item, f"input.{place}")})
        elif kind == "message":
            _add_message(messages, item)
        elif kind == "reasoning":
            _open_turn(messages, "reasoning", "content", "tool_calls")["reasoning"] = _thought(item)
        elif kind == "compaction":
            summary = unseal(item["encrypted_content"]) or ""
            _open_turn(messages, "content", "tool_calls")["content"] = _SUMMARY + summary
        elif kind in ("function_call", "custom_tool_call"):
            _open_turn(messages).setdefault("tool_calls", []).append(_call(item))
        else:
            result = {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item)}
            messages.append(result)
    return messages


def _has_pictures(item: Mapping[str, Any]) -> bool:
    return any(part["type"] == "input_image" for part in item["content"])


def _parts(item: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """Content of a chat message; `path` is the item's, where nothing was stored before it."""
    return [
        picture_part(f"{path}.content.{place}", url=part["image_url"])
        if part["type"] == "input_image"
        else {"type": "text", "text": _joined([part])}
        for place, part in enumerate(item["content"])
    ]


def _add_message(messages: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    role = item["role"]
    text = _joined(item["content"])
    if role == "assistant":
        _open_turn(messages, "content", "tool_calls")["content"] = text
    elif role in ("system", "developer") and len(messages) == 1 and _is_system(messages[0]):
        messages[0]["content"] += "\n\n" + text
    else:
        messages.append({"role": role, "content": text})


def _is_system(message: Mapping[str, Any]) -> bool:
    return message["role"] in ("system", "developer")


def _open_turn(messages: list[dict[str, Any]], *taken: str) -> dict[str, Any]:
    """The assistant's last message, or a new one if it has one of `taken` already."""
    last = messages[-1] if messages else {"role": ""}
    if last["role"] != "assistant" or any(last.get(name) for name in taken):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _joined(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


def _thought(item: Mapping[str, Any]) -> str:
    return _joined(item.get("content") or item.get("summary") or "")


def _text(item: Mapping[str, Any]) -> str:
    return _joined(item["output"])


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    if item["type"] == "custom_tool_call":
        arguments = msgspec.json.encode({CUSTOM_ARGUMENT: item["input"]}).decode()
    else:
        arguments = item["arguments"]
    function = {"name": item["name"], "arguments": arguments}
    return {"id": item["call_id"], "type": "function", "function": function}
