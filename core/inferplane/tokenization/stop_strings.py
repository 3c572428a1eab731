"""Finds stop strings in text that arrives in pieces; knows nothing of tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFinder"]


class StopFinder:
    """Cuts a text at the first stop string to be complete, however the text is cut into pieces.

    Of two that end at the same character the longer one counts. Only text that may still become a
    stop string is held back. Time is linear: Knuth, Morris, Pratt (1977), one state a string.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """`stops` are not empty strings; with `include` the found one stays in the text."""
        self.stops = sorted(dict.fromkeys(stops), key=len, reverse=True)
        self.include = include
        self.found: str | None = None
        """The stop string that ended the text."""
        self._failures = [_failures(stop) for stop in self.stops]
        self._firsts = frozenset(stop[0] for stop in self.stops)
        self._states = [0] * len(self.stops)
        self._held = ""

    def feed(self, piece: str) -> str:
        """The text that is safe to hand out now; nothing after a stop string was found."""
        if self.found is not None or not piece:
            return ""
        if not self._held and self._firsts.isdisjoint(piece):
            return piece
        for index, character in enumerate(piece):
            if self._advance(character):
                text = self._held + piece[: index + 1]
                self._held = ""
                return text if self.include else text[: -len(self.found or "")]
        text = self._held + piece
        hold = max(self._states)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """The text held back, when nothing more comes."""
        text, self._held = self._held, ""
        self._states = [0] * len(self.stops)
        return text

    def _advance(self, character: str) -> bool:
        """Take one character into every state; whether a stop string is complete."""
        for number, stop in enumerate(self.stops):
            state = self._states[number]
            while state and stop[state] != character:
                state = self._failures[number][state - 1]
            if stop[state] == character:
                state += 1
                if state == len(stop):
                    self.found = stop
                    return True
            self._states[number] = state
        return False


def _failures(stop: str) -> list[int]:
    """For each prefix, the length of the longest shorter prefix that also ends it."""
    failures = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = failures[length - 1]
        if stop[index] == stop[length]:
            length += 1
        failures[index] = length
    return failures
