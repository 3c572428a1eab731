"""Outputs that are a sequence of labelled messages: Harmony (gpt-oss) and XTML (Kimi K3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

from inferplane.server.tools.events import Content, Reasoning, ToolCall
from inferplane.server.tools.plain_flow import Flow
from inferplane.server.tools.source import EndOfText, Malformed, Reading, TextSource
from inferplane.server.tools.values import Tool, by_schema, json_object, json_value, written

__all__ = ["harmony_flow", "xtml_flow"]

_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_FUNCTIONS = "functions."
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


def harmony_flow(flow: Flow) -> Reading[None]:
    """Messages `header<|message|>body<|end|>`; the header names channel and recipient.

    Format: openai/harmony, docs/format.md. What has no well-formed header is dropped.
    """
    while True:
        try:
            header, mark = yield from flow.source.until("<|message|>", *_ENDS)
        except EndOfText:
            return
        if mark != "<|message|>":
            continue
        recipient = _RECIPIENT.search(header)
        channels = _CHANNEL.findall(header)
        channel = channels[-1] if channels else "final"
        if recipient is not None and recipient[1] != "assistant":
            yield from _harmony_call(flow, recipient[1])
        elif channel in ("final", "commentary"):
            yield from _harmony_text(flow, lambda text: flow.emit(Content(text)))
        elif channel == "analysis":
            yield from _harmony_text(flow, lambda text: flow.emit(Reasoning(text)))
        else:
            yield from _harmony_text(flow, lambda text: None)


def _harmony_text(flow: Flow, sink: Callable[[str], None]) -> Reading[None]:
    """A body. An end marker is one only where a message or the output ends after it."""
    while True:
        mark = yield from flow.source.passing(_ENDS, sink)
        if not mark:
            return
        following = ("assistant",) if mark == "<|start|>" else ("<|start|>", "<|channel|>", "")
        if (yield from flow.source.next_of(*following)):
            return
        sink(mark)


def _harmony_call(flow: Flow, recipient: str) -> Reading[None]:
    source = flow.source
    if not recipient.startswith(_FUNCTIONS) or not flow.tools:
        yield from _harmony_text(flow, lambda text: None)
        return
    source.record()
    try:
        text = yield from source.json_text()
        json_object(text)
    except EndOfText:
        flow.unfinished = True
        return
    except Malformed:
        flow.refused += 1
        flow.emit(Content(source.recorded()))
    else:
        source.recorded()
        flow.emit(ToolCall(recipient.removeprefix(_FUNCTIONS), text))
    yield from _harmony_text(flow, lambda text: None)


def xtml_flow(flow: Flow) -> Reading[None]:
    """Elements `<|open|>tag attributes<|sep|>...<|close|>tag<|sep|>`: think, response, tools.

    Prompts end inside think or response, so the first text belongs to one of them.
    """
    source = flow.source
    inside = "think" if flow.thinking else "response"
    if (yield from source.next_of("<|open|>")):
        inside = ""
    while True:
        if inside:
            ended = yield from _xtml_text(flow, inside)
            if not ended:
                return
        try:
            _, mark = yield from source.until("<|open|>", "<|close|>")
            tag, _ = yield from source.until("<|sep|>")
        except EndOfText:
            return
        inside = ""
        if mark == "<|open|>" and tag in ("think", "response"):
            inside = tag
        elif mark == "<|open|>" and tag == "tools":
            try:
                yield from _xtml_tools(flow)
            except EndOfText:
                flow.unfinished = True
                return
            except Malformed:
                flow.refused += 1


def _xtml_text(flow: Flow, tag: str) -> Reading[bool]:
    """Text of one element; whether its end was seen."""
    kind = Reasoning if tag == "think" else Content
    close = f"<|close|>{tag}<|sep|>"
    found = yield from flow.source.passing((close,), lambda text: flow.emit(kind(text)))
    return bool(found)


def _xtml_tools(flow: Flow) -> Reading[None]:
    source = flow.source
    while (yield from source.expect("<|open|>call ", "<|close|>tools<|sep|>")) == "<|open|>call ":
        text, _ = yield from source.until("<|sep|>")
        name = dict(_ATTRIBUTE.findall(text)).get("tool", "")
        if not name:
            raise Malformed
        tool = flow.tools.get(name, Tool(name))
        arguments: dict[str, object] = {}
        while True:
            found = yield from source.expect("<|open|>argument ", "<|close|>call<|sep|>")
            if found == "<|close|>call<|sep|>":
                break
            text, _ = yield from source.until("<|sep|>")
            attributes = dict(_ATTRIBUTE.findall(text))
            value = yield from _xtml_argument(source)
            key = unescape(attributes.get("key", ""))
            arguments[key] = _xtml_value(value, attributes.get("type", ""), tool, key)
        if flow.tools:
            flow.emit(ToolCall(name, written(arguments)))


def _xtml_argument(source: TextSource) -> Reading[str]:
    """A value; its end marker is one only where another element of the call follows."""
    close, parts = "<|close|>argument<|sep|>", list[str]()
    while True:
        text, _ = yield from source.until(close)
        parts.append(text)
        if (yield from source.next_of("<|open|>argument ", "<|close|>call<|sep|>", "")):
            return "".join(parts)
        parts.append(close)


def _xtml_value(value: str, kind: str, tool: Tool, key: str) -> object:
    if kind == "string":
        return value
    if kind:
        try:
            return json_value(value)
        except Malformed:
            return value
    return by_schema(value, tool.schema_of(key))
