"""Calls written in tags with one element a parameter: Qwen's XML, GLM's, and `invoke` families."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from inferplane.server.tools.events import Emit, ToolCall
from inferplane.server.tools.json_calls import JsonCalls
from inferplane.server.tools.source import Malformed, Reading, TextSource
from inferplane.server.tools.values import Tool, Tools, by_schema, json_value, written

__all__ = ["FunctionTags", "InvokeTags", "read_glm"]

_NAME = re.compile(r"[^\s<>={}\"'()\[\]]{1,256}")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


def _checked(name: str) -> str:
    """A name without its surroundings. Raises Malformed."""
    bare = name.strip()
    if not _NAME.fullmatch(bare):
        raise Malformed
    return bare


def _unpadded(text: str) -> str:
    """A value without the line breaks that its tags stand on."""
    return text.removeprefix("\n").removesuffix("\n")


class FunctionTags:
    """`<function=NAME><parameter=KEY>value</parameter></function>`, within CLOSE.

    A value may hold any of these tags: one ends it only where another tag of the call follows, or,
    if the model forgot to close it, at the start of a line. JSON in the same wrapper is read too.
    """

    def __init__(self, close: str = "</tool_call>") -> None:
        self.close = close

    def __call__(self, source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
        """After the opener, which is the wrapper or already `<function=`."""
        if opener != "<function=":
            found = yield from source.next_of("<function=", "{", "[")
            if found in ("{", "["):
                yield from JsonCalls(self.close)(source, tools, emit, opener)
                return
        while True:
            if opener != "<function=":
                yield from source.expect("<function=")
            opener = ""
            yield from self._function(source, tools, emit)
            if (yield from source.next_of(self.close, "<function=")) != "<function=":
                break
        yield from source.accept(self.close, "")

    def _function(self, source: TextSource, tools: Tools, emit: Emit) -> Reading[None]:
        text, _ = yield from source.until(">")
        name = _checked(text)
        tool = tools.get(name, Tool(name))
        arguments: dict[str, object] = {}
        key = ""
        while True:
            if not key:
                if (yield from source.expect("<parameter=", "</function>")) == "</function>":
                    break
                text, _ = yield from source.until(">")
                key = _checked(text)
            value, key_after, over = yield from self._value(source, tool)
            arguments[key] = by_schema(_unpadded(value), tool.schema_of(key))
            key = key_after
            if over:
                break
        emit(ToolCall(name, written(arguments)))

    def _value(self, source: TextSource, tool: Tool) -> Reading[tuple[str, str, bool]]:
        """(value, name of the next parameter if it was read, whether the function is over)."""
        parts: list[str] = []
        while True:
            text, tag = yield from source.until("</parameter>", "\n<parameter=", "\n</function>")
            parts.append(text)
            if tag == "</parameter>":
                if (yield from source.next_of("<parameter=", "</function>", "")):
                    return "".join(parts), "", False
            elif tag == "\n</function>":
                if (yield from source.next_of(self.close, "")):
                    return "".join(parts), "", True
            else:
                name, end = yield from source.until(">", "\n")
                if end == ">" and tool.schema_of(name) is not None:
                    return "".join(parts), name, False
                tag += name + end
            parts.append(tag)


def read_glm(source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
    """`NAME<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`, with or without newlines."""
    text, tag = yield from source.until("<arg_key>", "</tool_call>")
    name = _checked(text)
    tool = tools.get(name, Tool(name))
    arguments: dict[str, object] = {}
    while tag == "<arg_key>":
        key, _ = yield from source.until("</arg_key>")
        yield from source.expect("<arg_value>")
        value, tag = yield from _glm_value(source)
        schema = tool.schema_of(key.strip())
        arguments[key.strip()] = by_schema(value, schema, default_json=True)
    emit(ToolCall(name, written(arguments)))


def _glm_value(source: TextSource) -> Reading[tuple[str, str]]:
    """(value, the tag read after it)."""
    parts: list[str] = []
    while True:
        text, tag = yield from source.until("</arg_value>", "</tool_call>")
        parts.append(text)
        if tag == "</arg_value>":
            found = yield from source.accept("<arg_key>", "</tool_call>", "")
            if found == "\0":
                yield from source.more()
            if found:
                return "".join(parts), found
        elif (yield from source.next_of("<tool_call>", "")):  # the value was not closed
            return "".join(parts), tag
        parts.append(tag)


class InvokeTags:
    """`<P invoke name="NAME"><P parameter name="KEY">value</P parameter></P invoke>` until CLOSE.

    `prefix` is P; tokens `between` calls mean nothing. An attribute `string="false"` says that a
    value is JSON.
    """

    def __init__(self, prefix: str, close: str, between: Sequence[str] = ()) -> None:
        self.invoke = f"<{prefix}invoke "
        self.invoke_end = f"</{prefix}invoke>"
        self.parameter = f"<{prefix}parameter "
        self.parameter_end = f"</{prefix}parameter>"
        self.close = close
        self.between = between

    def __call__(self, source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
        """After the opener of the section."""
        while True:
            found = yield from source.expect(self.invoke, self.close, *self.between)
            if found in self.between:
                continue
            if found == self.close:
                return
            attributes, closed = yield from _attributes(source)
            name = _checked(attributes.get("name", ""))
            tool = tools.get(name, Tool(name))
            arguments: dict[str, object] = {}
            while not closed:
                found = yield from source.expect(self.parameter, self.invoke_end)
                if found == self.invoke_end:
                    break
                attributes, empty = yield from _attributes(source)
                key = attributes.get("name", "")
                value = "" if empty else (yield from source.until(self.parameter_end))[0]
                arguments[key] = _typed(value, attributes, tool, key)
            emit(ToolCall(name, written(arguments)))


def _attributes(source: TextSource) -> Reading[tuple[Mapping[str, str], bool]]:
    """(attributes, whether the element is closed at once)."""
    text, _ = yield from source.until(">")
    return dict(_ATTRIBUTE.findall(text)), text.rstrip().endswith("/")


def _typed(value: str, attributes: Mapping[str, str], tool: Tool, key: str) -> object:
    kind = attributes.get("string")
    if kind == "true":
        return value
    if kind == "false":
        try:
            return json_value(value)
        except Malformed:
            return value
    return by_schema(value, tool.schema_of(key))
