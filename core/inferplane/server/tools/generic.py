"""Tools for models whose chat template knows none: told in the system message, Hermes' way.

The model may or may not take the hint; with a grammar it must.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferplane.server.tools.values import written

__all__ = ["told_in_text"]

_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def told_in_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """The conversation with tools, calls and results as plain text."""
    told = [_plain(message) for message in messages]
    if not tools:
        return told
    text = _BEFORE + "".join("\n" + written(tool) for tool in tools) + _AFTER
    if told and told[0]["role"] == "system":
        told[0] = {**told[0], "content": f"{_text(told[0])}\n\n{text}"}
        return told
    return [{"role": "system", "content": text}, *told]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text(message)}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return {key: value for key, value in message.items() if key != "tool_calls"}
    parts = [_text(message)] if _text(message) else []
    for call in calls:
        function = call["function"]
        said = {"name": function["name"], "arguments": function["arguments"]}
        parts.append(f"<tool_call>\n{written(said)}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(parts)}
