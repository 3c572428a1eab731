"""Calls written as Python: `[f(a=1, b='x'), g()]`. Nothing is evaluated; literals are read."""

from __future__ import annotations

from collections.abc import Mapping

from inferplane.server.tools.events import Emit, ToolCall
from inferplane.server.tools.source import EndOfText, Malformed, Reading, TextSource
from inferplane.server.tools.values import Tools, json_value, written

__all__ = ["PythonCalls"]

_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "a": "\a",
    "v": "\v",
    "0": "\0",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "\n": "",
}
_HEX: Mapping[str, int] = {"x": 2, "u": 4, "U": 8}
_WORDS: Mapping[str, object] = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
_DEPTH = 32


class PythonCalls:
    """A list of calls, or with `lines` one call a line, then CLOSE.

    With `offered_only`, names that were not offered make it text: so for formats without markers.
    """

    def __init__(self, close: str = "", *, lines: bool = False, offered_only: bool = False) -> None:
        self.close = close
        self.lines = lines
        self.offered_only = offered_only

    def __call__(self, source: TextSource, tools: Tools, emit: Emit, opener: str) -> Reading[None]:
        """After the opener."""
        calls: list[ToolCall] = []
        bracketed = (yield from source.past_space()) == "["
        if bracketed:
            yield from source.character()
        elif not self.lines:
            raise Malformed
        while True:
            first = yield from source.past_space()
            if not bracketed and (yield from source.next_of(self.close)):
                break
            if first == "]" and bracketed:
                yield from source.character()
                break
            if first == ",":
                yield from source.character()
                continue
            calls.append((yield from self._call(source, tools)))
        yield from self._end(source)
        for call in calls:
            emit(call)

    def _call(self, source: TextSource, tools: Tools) -> Reading[ToolCall]:
        name = yield from source.while_in(_in_name)
        if not name or (yield from source.character()) != "(":
            raise Malformed
        if self.offered_only and name not in tools:
            raise Malformed
        arguments: dict[str, object] = {}
        while True:
            first = yield from source.past_space()
            if first in "),":
                yield from source.character()
                if first == ")":
                    return ToolCall(name, written(arguments))
                continue
            key = yield from source.while_in(_in_name)
            yield from source.expect("=")
            if not key:
                raise Malformed
            arguments[key] = yield from _value(source, _DEPTH)

    def _end(self, source: TextSource) -> Reading[None]:
        if self.close:
            yield from source.accept(self.close, "")
        elif self.offered_only:
            try:
                yield from source.past_space()
            except EndOfText:
                return
            raise Malformed  # text follows: no call


def _in_name(character: str) -> bool:
    return character.isalnum() or character in "_.-"


def _value(source: TextSource, depth: int) -> Reading[object]:
    first = yield from source.past_space()
    if depth == 0:
        raise Malformed
    if first in "'\"":
        return (yield from _string(source))
    if first == "[" or first == "(":
        return (yield from _list(source, depth))
    if first == "{":
        return (yield from _dict(source, depth))
    word = yield from source.while_in(lambda c: c.isalnum() or c in "_.+-")
    if word in _WORDS:
        return _WORDS[word]
    number = json_value(word.replace("_", "").removeprefix("+"))
    if not isinstance(number, int | float):
        raise Malformed
    return number


def _string(source: TextSource) -> Reading[str]:
    quote = yield from source.character()
    parts: list[str] = []
    while True:
        text, end = yield from source.until(quote, "\\")
        parts.append(text)
        if end == quote:
            return "".join(parts)
        parts.append((yield from _escape(source)))


def _escape(source: TextSource) -> Reading[str]:
    letter = yield from source.character()
    if letter not in _HEX:
        return _ESCAPES.get(letter, "\\" + letter)
    digits = ""
    for _ in range(_HEX[letter]):
        digits += yield from source.character()
    try:
        return chr(int(digits, 16))
    except (ValueError, OverflowError):
        raise Malformed from None


def _list(source: TextSource, depth: int) -> Reading[list[object]]:
    end = "]" if (yield from source.character()) == "[" else ")"
    found: list[object] = []
    while True:
        first = yield from source.past_space()
        if first in (end, ","):
            yield from source.character()
            if first == end:
                return found
            continue
        found.append((yield from _value(source, depth - 1)))


def _dict(source: TextSource, depth: int) -> Reading[dict[str, object]]:
    yield from source.character()
    found: dict[str, object] = {}
    while True:
        first = yield from source.past_space()
        if first in "},":
            yield from source.character()
            if first == "}":
                return found
            continue
        key = yield from _value(source, depth - 1)
        yield from source.expect(":")
        found[key if isinstance(key, str) else written(key)] = yield from _value(source, depth - 1)
