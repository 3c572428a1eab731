"""Calls written as JSON: `{"name": ..., "arguments": {...}}`, alone or in a list."""

from __future__ import annotations

from collections.abc import Iterator

from inferplane.server.tools.events import Emit, ToolCall
from inferplane.server.tools.source import EndOfText, Malformed, Reading, TextSource
from inferplane.server.tools.values import Tools, json_value, written

__all__ = ["JsonCalls", "calls_of", "read_bare_json"]

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "tool_input", "args")


def calls_of(value: object) -> Iterator[ToolCall]:
    """The calls in parsed JSON. Raises Malformed for anything else."""
    for member in value if isinstance(value, list) else [value]:
        if not isinstance(member, dict):
            raise Malformed
        yield _call(member)


def _call(member: dict[str, object]) -> ToolCall:
    inner = member.get("function")
    if isinstance(inner, dict):
        return _call(inner)
    name = next((member[key] for key in _NAMES if isinstance(member.get(key), str)), None)
    arguments: object = next((member[key] for key in _ARGUMENTS if key in member), {})
    if isinstance(arguments, str):  # written twice: a string of JSON
        arguments = json_value(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict | None):
        raise Malformed
    return ToolCall(name, written(arguments or {}))


class JsonCalls:
    """`OPEN json CLOSE`, with an object or a list of them.

    A missing CLOSE is forgiven at the end of the text: the JSON says itself whether it is complete.
    """

    def __init__(self, close: str = "") -> None:
        self.close = close

    def __call__(self, source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
        """After the opener."""
        while True:
            text = yield from source.json_text()
            calls = list(calls_of(json_value(text)))
            found = (yield from source.next_of(self.close, "{", "")) if self.close else "\0"
            for call in calls:
                emit(call)
            if found == "{":  # another object before CLOSE
                continue
            if found != "\0":
                yield from source.expect(self.close)
            return


def read_bare_json(source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
    """Calls as objects with nothing around them, one after the other with `;` between.

    Only objects that name an offered tool are calls, and only if no other text follows.
    """
    calls: list[ToolCall] = []
    while True:
        text = yield from source.json_text()
        found = list(calls_of(json_value(text)))
        if any(call.name not in tools for call in found):
            raise Malformed
        calls += found
        if (yield from source.accept(";", "")) == ";":
            continue
        try:
            yield from source.past_space()
        except EndOfText:
            break
        raise Malformed
    for call in calls:
        emit(call)
