"""Text that arrives in pieces, read as if it were whole: the ground under every format's reader.

Readers are generators: they yield when they need more text and go on where they stood, so each
character is looked at a bounded number of times and the result depends on no split.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

__all__ = ["EndOfText", "Malformed", "Reading", "TextSource"]

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
"""A reader under way: yields for more text, returns T."""


class EndOfText(Exception):
    """The text ended inside a call: the model did not finish it."""


class Malformed(Exception):
    """What stands here is no call of this format."""


class TextSource:
    """The unread part of a text, and what was read since `record`."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self.ended = False
        self._recorded: list[str] | None = None

    def feed(self, text: str) -> None:
        """More text has come."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def record(self) -> None:
        """Remember what is read from here on."""
        self._recorded = []

    def recorded(self) -> str:
        """What was read since `record`; ends the recording."""
        text = "".join(self._recorded or ())
        self._recorded = None
        return text

    def _take(self, count: int) -> str:
        piece = self._text[self._at : self._at + count]
        self._at += count
        if self._recorded is not None:
            self._recorded.append(piece)
        return piece

    def more(self) -> Reading[None]:
        """Wait for more text. Raises EndOfText when there is none."""
        if self.ended:
            raise EndOfText
        yield

    def passing(self, markers: Sequence[str], sink: Callable[[str], None]) -> Reading[str]:
        """Hand text to `sink` up to the first marker and return that, or "" at the end.

        Only what may still become a marker is held back.
        """
        while True:
            place, marker = self._first(markers)
            if marker:
                if place > self._at:
                    sink(self._take(place - self._at))
                self._take(len(marker))
                return marker
            hold = 0 if self.ended else self._possible(markers)
            ready = len(self._text) - self._at - hold
            if ready:
                sink(self._take(ready))
            if self.ended:
                return ""
            yield

    def until(self, *markers: str) -> Reading[tuple[str, str]]:
        """(text, marker) up to and with the first marker. Raises EndOfText."""
        parts: list[str] = []
        marker = yield from self.passing(markers, parts.append)
        if not marker:
            raise EndOfText
        return "".join(parts), marker

    def _first(self, markers: Sequence[str]) -> tuple[int, str]:
        best, found = len(self._text), ""
        for marker in markers:
            place = self._text.find(marker, self._at)
            if 0 <= place < best or (place == best and len(marker) > len(found)):
                best, found = place, marker
        return best, found

    def _possible(self, markers: Sequence[str]) -> int:
        """Length of the longest end of the text that begins a marker."""
        longest = 0
        for marker in markers:
            for size in range(min(len(marker) - 1, len(self._text) - self._at), longest, -1):
                if self._text.endswith(marker[:size]):
                    longest = size
                    break
        return longest

    def next_of(self, *options: str) -> Reading[str]:
        """Which option comes next, after whitespace; "" = none of them. Reads nothing.

        The option "" matches the end of the text and is told as "\\0".
        """
        while True:
            rest = self._text[self._at :].lstrip()
            for option in options:
                if option and rest.startswith(option):
                    return option
            if self.ended:
                return "\0" if not rest and "" in options else ""
            if not any(option.startswith(rest) for option in options if option):
                return ""
            yield

    def accept(self, *options: str) -> Reading[str]:
        """Like `next_of`, but reads whitespace and option when there is one."""
        found = yield from self.next_of(*options)
        if found and found != "\0":
            self.skip_space()
            self._take(len(found))
        return found

    def expect(self, *options: str) -> Reading[str]:
        """Read one of the options. Raises Malformed, or EndOfText when the text ends before it."""
        found = yield from self.accept(*options)
        if not found:
            if self.ended and not self._text[self._at :].strip():
                raise EndOfText
            raise Malformed
        return found

    def skip_space(self) -> None:
        """Read the whitespace that is there."""
        rest = self._text[self._at :]
        self._take(len(rest) - len(rest.lstrip()))

    def past_space(self) -> Reading[str]:
        """Read whitespace; the next character, unread. Raises EndOfText."""
        while True:
            self.skip_space()
            if self._at < len(self._text):
                return self._text[self._at]
            yield from self.more()

    def character(self) -> Reading[str]:
        """Read one character. Raises EndOfText."""
        while self._at >= len(self._text):
            yield from self.more()
        return self._take(1)

    def while_in(self, accepted: Callable[[str], bool]) -> Reading[str]:
        """Read characters as long as they are accepted."""
        parts: list[str] = []
        while True:
            end = self._at
            while end < len(self._text) and accepted(self._text[end]):
                end += 1
            parts.append(self._take(end - self._at))
            if self._at < len(self._text) or self.ended:
                return "".join(parts)
            yield

    def json_text(self) -> Reading[str]:
        """Read one JSON object or list, as it is written. Raises Malformed or EndOfText.

        Only brackets and strings are followed here; whoever parses the text judges the rest.
        """
        first = yield from self.past_space()
        if first not in "{[":
            raise Malformed
        depth, quoted, escaped = 0, False, False
        parts: list[str] = []
        while True:
            for index in range(self._at, len(self._text)):
                character = self._text[index]
                if quoted:
                    if escaped:
                        escaped = False
                    elif character == "\\":
                        escaped = True
                    elif character == '"':
                        quoted = False
                elif character == '"':
                    quoted = True
                elif character in "{[":
                    depth += 1
                elif character in "}]":
                    depth -= 1
                    if depth == 0:
                        parts.append(self._take(index + 1 - self._at))
                        return "".join(parts)
            parts.append(self._take(len(self._text) - self._at))
            yield from self.more()
