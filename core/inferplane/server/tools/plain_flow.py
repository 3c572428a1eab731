"""The course of most outputs: maybe thinking, then text with calls in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from inferplane.server.tools.events import Content, Emit, Event, Reasoning, ToolCall
from inferplane.server.tools.source import EndOfText, Malformed, Reading, TextSource
from inferplane.server.tools.values import Tools

__all__ = ["CallReader", "Flow", "PlainFlow", "Thinking"]


class CallReader(Protocol):
    """Reads what follows an opener and emits each complete call."""

    def __call__(
        self, source: TextSource, tools: Tools, emit: Emit, opener: str
    ) -> Reading[None]: ...


@dataclass(slots=True)
class Flow:
    """One output being read."""

    source: TextSource
    tools: Tools
    """Empty: nothing is taken for a call."""
    thinking: bool
    """The prompt ends inside the thinking part."""
    emit: Callable[[Event], None]
    unfinished: bool = False
    """A call was begun and not finished; it is not handed out."""
    refused: int = 0
    """How often something looked like a call and was none."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Markers of the thinking part; the first pair is the one prompts end with."""

    pairs: Sequence[tuple[str, str]] = (("<think>", "</think>"),)
    calls_inside: bool = False
    """A call ends it, although its end marker is missing."""


class _Text:
    """Emits text, holding back the whitespace that turns out to separate parts."""

    def __init__(self, kind: type[Content] | type[Reasoning], flow: Flow, strips: bool) -> None:
        self.kind = kind
        self.flow = flow
        self.strips = strips
        self.at_start = False
        """Leading whitespace only separates from what came before."""
        self._held = ""

    def __call__(self, text: str) -> None:
        text = self._held + text
        self._held = ""
        if self.at_start:
            text = text.lstrip()
            if not text:
                return
            self.at_start = False
        if self.strips:
            shown = text.rstrip()
            self._held, text = text[len(shown) :], shown
        if text:
            self.flow.emit(self.kind(text))

    def flush(self) -> None:
        """The text is over here: what was held belongs to it."""
        if self._held and not self.at_start:
            self.flow.emit(self.kind(self._held))
        self._held = ""

    def drop(self) -> None:
        """A marker comes: what was held only separates."""
        self._held = ""


@dataclass(frozen=True, slots=True)
class PlainFlow:
    """Rules of one format."""

    openers: Sequence[str] = ()
    reader: CallReader | None = None
    thinking: Thinking | None = None
    strips: bool = False
    """Templates of the family put whitespace around calls, which is no content."""
    bare: str = ""
    """A call may stand without opener at the very start, beginning with this."""
    bare_reader: CallReader | None = None
    silent: Sequence[str] = ()
    """Markers around content that are dropped."""

    def __call__(self, flow: Flow) -> Reading[None]:
        """Read the whole output."""
        content = _Text(Content, flow, self.strips)
        end = self._prompted_end(flow)
        if not end and self.thinking is not None:
            starts = {start: end for start, end in self.thinking.pairs}
            end = starts.get((yield from flow.source.accept(*starts)), "")
        if end:
            yield from self._think(flow, end)
            content.at_start = True
        if self.bare and self.bare_reader is not None and flow.tools:
            yield from self._bare(flow, content)
        yield from self._talk(flow, content)

    def _prompted_end(self, flow: Flow) -> str:
        return self.thinking.pairs[0][1] if flow.thinking and self.thinking is not None else ""

    def _think(self, flow: Flow, end: str) -> Reading[None]:
        assert self.thinking is not None
        thought = _Text(Reasoning, flow, strips=True)
        thought.at_start = True
        calls = self.openers if self.thinking.calls_inside and flow.tools else ()
        while True:
            marker = yield from flow.source.passing((end, *calls), thought)
            if not marker:
                thought.flush()
                return
            if marker == end:
                thought.drop()
                return
            if (yield from self._call(flow, marker, thought)):
                return

    def _talk(self, flow: Flow, content: _Text) -> Reading[None]:
        openers = self.openers if flow.tools else ()
        while True:
            marker = yield from flow.source.passing((*openers, *self.silent), content)
            if not marker:
                content.flush()
                return
            if marker in openers and (yield from self._call(flow, marker, content)):
                content.at_start = self.strips

    def _call(self, flow: Flow, opener: str, text: _Text) -> Reading[bool]:
        """Whether the opener began a call; otherwise it was text."""
        assert self.reader is not None
        return (yield from _attempt(flow, self.reader, opener, text))

    def _bare(self, flow: Flow, content: _Text) -> Reading[None]:
        assert self.bare_reader is not None
        if (yield from flow.source.next_of(self.bare)):
            yield from _attempt(flow, self.bare_reader, "", content)


def _attempt(flow: Flow, reader: CallReader, opener: str, text: _Text) -> Reading[bool]:
    """Let the reader try. What is no call goes to `text`; what was not finished is dropped."""
    source = flow.source
    found: list[ToolCall] = []

    def emit(call: ToolCall) -> None:
        if not found:
            text.drop()
        found.append(call)
        flow.emit(call)
        source.record()

    source.record()
    try:
        yield from reader(source, flow.tools, emit, opener)
    except Malformed:
        flow.refused += 1
        text((opener if not found else "") + source.recorded())
        return bool(found)
    except EndOfText:
        flow.unfinished = True
        if not opener and not found:  # nothing but its shape said that it was a call
            text(source.recorded())
        else:
            text.drop()
    source.recorded()
    return True
