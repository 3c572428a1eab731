"""Grammars that make a model call tools: Hermes' notation, which every reader here understands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from inferplane.grammar.sources import JSON_OPTIONS
from inferplane.server.tools.values import Tool
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["calls_grammar", "free_calls_grammar"]

_NEWLINE = r'"\n"'
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def calls_grammar(
    tokenizer: Tokenizer,
    tools: Iterable[Tool],
    *,
    parallel: bool,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """Lark: one call or several, each of an offered tool with arguments by its schema.

    With `answer`, a JSON schema, an answer by that schema may come instead.
    """
    call = _call_schema(tools)
    more = f"({_NEWLINE} call)*" if parallel else ""
    start = "start: calls" if answer is None else "start: calls | answer"
    lines = [
        start,
        f"calls: call {more}",
        f"call: {_marker(tokenizer, _OPEN)} {_NEWLINE} body {_NEWLINE} "
        f"{_marker(tokenizer, _CLOSE)}",
        f"body: %json {_json(call)}",
    ]
    if answer is not None:
        lines.append(f"answer: %json {_json({**answer, 'x-guidance': JSON_OPTIONS})}")
    return "\n".join(lines) + "\n"


def free_calls_grammar(tokenizer: Tokenizer, tools: Iterable[Tool]) -> str:
    """Lark: free text, but what follows the opening mark is a call by its tool's schema."""
    body = f"{_NEWLINE} body {_NEWLINE} {_marker(tokenizer, _CLOSE)}"
    special = _special_id(tokenizer, _OPEN)
    if special is None:
        head = f"tag: trigger {body}\ntrigger[lazy]: TEXT {_text(_OPEN)}"
    else:
        head = f"tag: TEXT <[{special}]> {body}"
    return (
        "%llguidance {}\n"
        f"start: tag* end\nend: TEXT\n{head}\nTEXT: /(.|\\n)*/\n"
        f"body: %json {_json(_call_schema(tools))}\n"
    )


def _call_schema(tools: Iterable[Tool]) -> dict[str, Any]:
    """One call as JSON; `$defs` of a tool's schema move to the root, under its own name."""
    options, definitions = [], {}
    for tool in tools:
        parameters = dict(tool.parameters) or {"type": "object"}
        prefix = f"{tool.name}__"
        for key in ("$defs", "definitions"):
            held = parameters.pop(key, None)
            if isinstance(held, dict):
                definitions.update({prefix + k: _moved(v, prefix) for k, v in held.items()})
        options.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.name},
                    "arguments": _moved(parameters, prefix),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = options[0] if len(options) == 1 else {"anyOf": options}
    schema["x-guidance"] = JSON_OPTIONS
    return {**schema, "$defs": definitions} if definitions else schema


def _moved(node: Any, prefix: str) -> Any:
    """References to definitions, which now stand at the root under longer names."""
    if isinstance(node, list):
        return [_moved(member, prefix) for member in node]
    if not isinstance(node, dict):
        return node
    made = {}
    for key, member in node.items():
        if key == "$ref" and isinstance(member, str):
            name = member.rpartition("/")[2]
            made[key] = f"#/$defs/{prefix}{name}"
        else:
            made[key] = _moved(member, prefix)
    return made


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _special_id(tokenizer: Tokenizer, text: str) -> int | None:
    found = tokenizer.backend.token_to_id(text)
    return found if found in tokenizer.special_ids else None


def _marker(tokenizer: Tokenizer, text: str) -> str:
    """Special tokens are matched by number, other marks by their text."""
    special = _special_id(tokenizer, text)
    return _text(text) if special is None else f"<[{special}]>"
