"""One choice of a chat: its text read for calls and thoughts, its tokens handed on with them."""

from __future__ import annotations

import secrets
import string

from inferplane.engine.messages import TokenLogprobs
from inferplane.request import FinishReason
from inferplane.server.tools.events import Content, Event, Reasoning
from inferplane.server.tools.stream import OutputParser
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["ChoiceReader", "call_id"]

_ALPHABET = string.ascii_letters + string.digits


def call_id(prefix: str = "call_") -> str:
    """A fresh id of one tool call."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class ChoiceReader:
    """Turns the deltas of one sequence into events.

    Tokens whose text has led to no event yet wait, so that what comes with them is never lost.
    """

    def __init__(self, parser: OutputParser | None, include_reasoning: bool = True) -> None:
        """Without a parser all text is content."""
        self._parser = parser
        self._include_reasoning = include_reasoning
        self.thoughts: list[str] = []
        """The reasoning so far, shown or not."""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []

    @property
    def num_calls(self) -> int:
        """Tool calls handed out so far."""
        return 0 if self._parser is None else self._parser.num_calls

    @property
    def unparsed(self) -> bool:
        """Something looked like a call and is none."""
        return self._parser is not None and self._parser.unparsed

    def read(self, delta: TextDelta) -> list[Event]:
        """What the delta means. Its tokens are added to those that wait."""
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or ()
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        events = self._parser.feed(delta.text)
        if delta.finish is not None:
            events += self._parser.finish()
        self.thoughts += [event.text for event in events if isinstance(event, Reasoning)]
        if self._include_reasoning:
            return events
        return [event for event in events if not isinstance(event, Reasoning)]

    def take_tokens(self) -> tuple[list[int], list[TokenLogprobs]]:
        """(ids, logprobs) that wait, once."""
        taken = self.token_ids, self.logprobs
        self.token_ids, self.logprobs = [], []
        return taken

    def finish_name(self, finish: FinishReason) -> str:
        """`finish_reason` on the wire."""
        if self.num_calls:
            return "tool_calls"
        return "stop" if finish is FinishReason.STOP else "length"
