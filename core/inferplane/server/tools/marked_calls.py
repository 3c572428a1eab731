"""Calls between control tokens, each family its own way: Mistral, DeepSeek V3, Kimi K2, Gemma 4."""

from __future__ import annotations

import re

from inferplane.server.tools.events import Emit, ToolCall
from inferplane.server.tools.json_calls import calls_of
from inferplane.server.tools.source import Malformed, Reading, TextSource
from inferplane.server.tools.values import Tools, json_object, json_value, written

__all__ = ["DeepSeekCalls", "read_gemma", "read_kimi", "read_mistral"]

_NAME = re.compile(r"[\w.\-/:]{1,256}")
_KIMI_ID = re.compile(r"(?:functions\.)?([\w.\-/]{1,256}?)(?::\d+)?")
_QUOTE = '<|"|>'
_DEPTH = 32


def read_mistral(source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
    """After `[TOOL_CALLS]`: a JSON list, or `name[ARGS]{...}` with maybe `[CALL_ID]id` between."""
    if (yield from source.past_space()) in "[{":
        for call in list(calls_of(json_value((yield from source.json_text())))):
            emit(call)
        return
    name, mark = yield from source.until("[ARGS]", "[CALL_ID]", "{", "\n")
    if mark == "[CALL_ID]":
        _, mark = yield from source.until("[ARGS]")
    if mark != "[ARGS]" or not _NAME.fullmatch(name.strip()):
        raise Malformed
    text = yield from source.json_text()
    json_object(text)
    emit(ToolCall(name.strip(), text))


class DeepSeekCalls:
    """A section of calls: `function SEP name`, fenced JSON (V3, R1), or `name SEP json` (V3.1).

    `bar` and `space` are how the family writes its control tokens.
    """

    def __init__(self, bar: str = "｜", space: str = "▁") -> None:
        def token(*words: str) -> str:
            return f"<{bar}{space.join(words)}{bar}>"

        self.opener = token("tool", "calls", "begin")
        self.close = token("tool", "calls", "end")
        self.begin = token("tool", "call", "begin")
        self.end = token("tool", "call", "end")
        self.separator = token("tool", "sep")

    def __call__(self, source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
        """After the section's opener."""
        while (yield from source.expect(self.begin, self.close)) == self.begin:
            name, _ = yield from source.until(self.separator)
            fenced = name.strip() == "function"
            if fenced:
                name, _ = yield from source.until("\n")
                yield from source.expect("```json")
            if not _NAME.fullmatch(name.strip()):
                raise Malformed
            text = yield from source.json_text()
            json_object(text)
            if fenced:
                yield from source.expect("```")
            yield from source.expect(self.end)
            emit(ToolCall(name.strip(), text))


def read_kimi(source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
    """A section of calls whose ids are `functions.NAME:INDEX`; other text in it means nothing."""
    begin, close = "<|tool_call_begin|>", "<|tool_calls_section_end|>"
    while (yield from source.until(begin, close))[1] == begin:
        label, _ = yield from source.until("<|tool_call_argument_begin|>")
        found = _KIMI_ID.fullmatch(label.strip())
        if found is None:
            raise Malformed
        text = yield from source.json_text()
        json_object(text)
        yield from source.expect("<|tool_call_end|>")
        emit(ToolCall(found[1], text))


def read_gemma(source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
    """`call:NAME{key:value,...}<tool_call|>` with strings between their own quote token."""
    yield from source.expect("call:")
    name, _ = yield from source.until("{")
    if not _NAME.fullmatch(name.strip()):
        raise Malformed
    arguments = yield from _gemma_object(source, _DEPTH)
    yield from source.expect("<tool_call|>")
    emit(ToolCall(name.strip(), written(arguments)))


def _gemma_object(source: TextSource, depth: int) -> Reading[dict[str, object]]:
    """After its opening brace."""
    found: dict[str, object] = {}
    while True:
        first = yield from source.past_space()
        if first in "},":
            yield from source.character()
            if first == "}":
                return found
            continue
        if (yield from source.accept(_QUOTE)):
            key, _ = yield from source.until(_QUOTE)
            yield from source.expect(":")
        else:
            key, end = yield from source.until(":", "}", "{", "<")
            if end != ":":
                raise Malformed
        found[key.strip()] = yield from _gemma_value(source, depth)


def _gemma_value(source: TextSource, depth: int) -> Reading[object]:
    if depth == 0:
        raise Malformed
    if (yield from source.accept(_QUOTE)):
        return (yield from source.until(_QUOTE))[0]
    first = yield from source.past_space()
    if first == "{":
        yield from source.character()
        return (yield from _gemma_object(source, depth - 1))
    if first == "[":
        return (yield from _gemma_list(source, depth - 1))
    word = yield from source.while_in(lambda c: c not in ",}]<")
    return json_value(word)


def _gemma_list(source: TextSource, depth: int) -> Reading[list[object]]:
    yield from source.character()
    found: list[object] = []
    while True:
        first = yield from source.past_space()
        if first in "],":
            yield from source.character()
            if first == "]":
                return found
            continue
        found.append((yield from _gemma_value(source, depth)))
