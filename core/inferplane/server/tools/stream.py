"""One output, read as it comes: feed text, get content, thoughts and complete calls."""

from __future__ import annotations

from inferplane.server.tools.events import Content, Event, Reasoning, ToolCall
from inferplane.server.tools.formats import Format
from inferplane.server.tools.plain_flow import Flow
from inferplane.server.tools.source import EndOfText, Reading, TextSource
from inferplane.server.tools.values import Tools

__all__ = ["OutputParser", "begins_thinking"]


def begins_thinking(format: Format, prompt: str) -> bool:
    """Whether the output of this prompt begins inside the thinking part."""
    end = prompt[-512:].rstrip()
    return any(end.endswith(mark.rstrip()) for mark in format.prompt_ends)


class OutputParser:
    """Reads one output in one format. Equal results under any split of the text."""

    def __init__(
        self, format: Format, tools: Tools, *, thinking: bool, at_most_one: bool = False
    ) -> None:
        """`thinking`: the prompt ends inside the thinking part. No calls are read without tools."""
        self._events: list[Event] = []
        self._at_most_one = at_most_one
        self.num_calls = 0
        self._flow = Flow(TextSource(), tools, thinking, self._emit)
        self._course: Reading[None] | None = format.course(self._flow)

    @property
    def unparsed(self) -> bool:
        """Something looked like a call and was not handed out as one."""
        return self._flow.unfinished or self._flow.refused > 0

    def feed(self, text: str) -> list[Event]:
        """What these characters complete."""
        self._flow.source.feed(text)
        return self._advance()

    def finish(self) -> list[Event]:
        """What is left at the end of the output."""
        self._flow.source.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        if self._course is not None:
            try:
                next(self._course)
                if self._flow.source.ended:  # a reader that still waits will never get more
                    self._course.close()
                    self._course = None
            except (StopIteration, EndOfText):
                self._course = None
        events, self._events = self._events, []
        return events

    def _emit(self, event: Event) -> None:
        if isinstance(event, ToolCall):
            if self._at_most_one and self.num_calls:
                return
            self.num_calls += 1
            self._events.append(event)
            return
        last = self._events[-1] if self._events else None
        if isinstance(event, Content) and isinstance(last, Content):
            self._events[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            self._events[-1] = Reasoning(last.text + event.text)
        else:
            self._events.append(event)
