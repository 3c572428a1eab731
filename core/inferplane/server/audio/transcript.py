"""What was said in a recording, window after window.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, sections 2.3 and
3.8: with timestamps the next window begins where the last whole segment ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from inferplane.interfaces import Array
from inferplane.media import MediaItem, media_item
from inferplane.server.audio.draws import Draws, Stretch
from inferplane.server.audio.hearing import Hearing
from inferplane.server.errors import ApiError
from inferplane.tokenization.detokenizer import Detokenizer
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["Segment", "Transcript", "Wish"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request wants to know."""

    task: str
    """transcribe or translate"""
    language: str | None
    """None = by ear."""
    context: tuple[int, ...]
    """Tokens of a text that comes before the recording's."""
    timestamps: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of speech, in seconds from the beginning."""

    seek: float
    """Where its window begins."""
    start: float
    end: float
    text: str
    ids: tuple[int, ...]
    logprob: float
    """Mean over its tokens."""


@dataclass(slots=True)
class Transcript:
    """Use: iterate `pieces()` to the end; then everything is known."""

    draws: Draws
    hearing: Hearing
    tokenizer: Tokenizer
    wish: Wish
    samples: Array
    """i16[n]"""
    language: str = ""
    text: str = ""
    segments: list[Segment] = field(default_factory=list)
    """With timestamps alone."""

    @property
    def seconds(self) -> float:
        """Of the recording."""
        return len(self.samples) / self.hearing.processor.rate

    async def pieces(self) -> AsyncIterator[str]:
        """Text as it comes; with timestamps, a segment at a time."""
        at = 0
        while at < len(self.samples):
            window = await self._window(at)
            head = await self._head(window, first=at == 0)
            if self.wish.timestamps:
                before = len(self.segments)
                at += await self._timed(window, head, at)
                told = [segment.text for segment in self.segments[before:]]
            else:
                told = []
                async for piece in self._plain(window, head):
                    self.text += piece
                    yield piece
                at += self.hearing.processor.window
            for piece in told:
                self.text += piece
                yield piece

    async def _window(self, at: int) -> MediaItem:
        part = self.samples[at : at + self.hearing.processor.window]
        heard = await asyncio.to_thread(self.hearing.processor.hear, part)
        if heard.fault:
            raise ApiError.of("media_invalid", f"file: the recording: {heard.fault}", "file")
        arrays = {"input_features": heard.features}
        length = self.hearing.speech.num_states
        return media_item(offset=0, length=length, arrays=arrays, kind="audio")

    async def _head(self, window: MediaItem, *, first: bool) -> list[int]:
        """The tokens before the answer: what to do, in which language, after which text."""
        tokens = self.hearing.tokens
        head = [tokens.start]
        if tokens.languages:
            if not self.language:
                self.language = self.wish.language or await self._heard_language(window)
            head += [tokens.languages[self.language], tokens.tasks[self.wish.task]]
        else:
            self.language = "en"
        if not self.wish.timestamps:
            head.append(tokens.no_timestamps)
        return [*self.wish.context, *head] if first else head

    async def _heard_language(self, window: MediaItem) -> str:
        tokens = self.hearing.tokens
        names = {id: name for name, id in tokens.languages.items()}
        drawn = await self.draws.one(window, [tokens.start], allowed=names, greedy=True)
        return names[drawn.ids[0]]

    async def _plain(self, window: MediaItem, head: list[int]) -> AsyncIterator[str]:
        """One window without timestamps."""
        tokens = self.hearing.tokens
        never = tokens.timestamps
        first = await self.draws.one(window, head, never=(*never, *tokens.suppressed_first))
        if not first.ids or first.ids[-1] == tokens.end:
            return
        text = Detokenizer(self.tokenizer, (), skip_special_tokens=True)
        yield text.feed(first.ids)
        ids = [*head, *first.ids]
        async for made in self.draws.more(window, ids, Stretch(), never=never):
            yield text.feed([id for id in made if id != tokens.end])
        yield text.flush()

    async def _timed(self, window: MediaItem, head: list[int], at: int) -> int:
        """Add one window's segments; by how many samples to go on."""
        tokens, draws = self.hearing.tokens, self.draws
        marks, step = tokens.timestamps, self.hearing.processor.rate
        low = marks.start
        ids = list(head)
        last: int | None = None
        opened = await draws.one(window, ids, allowed=marks[: tokens.most_initial + 1])
        while opened.ids and opened.ids[0] != tokens.end:
            low = opened.ids[0]
            ids.append(low)
            said = await self._said(window, ids, low)
            ids += said.ids
            closed = said.ids[-1] if said.ids and said.ids[-1] in marks else None
            if closed is None:
                if last is not None:  # begun, and not ended: the next window hears it whole
                    return int(tokens.seconds(last) * step)
                self._add(at, low, None, said)
                return self.hearing.processor.window
            self._add(at, low, closed, said)
            last = closed
            opened = await draws.one(window, ids, allowed=(tokens.end, *range(last, marks.stop)))
            if not opened.ids:  # no room
                return int(tokens.seconds(last) * step)
        return self.hearing.processor.window

    async def _said(self, window: MediaItem, ids: list[int], low: int) -> Stretch:
        """Text after a timestamp, with what ended it."""
        tokens = self.hearing.tokens
        found = await self.draws.one(window, ids, never=tokens.timestamps)
        if not found.ids or found.ids[-1] == tokens.end:
            return found
        rest = Stretch()
        early = range(tokens.timestamps.start, low + 1)
        stops = tokens.timestamps[1:]
        async for _ in self.draws.more(window, [*ids, *found.ids], rest, never=early, stops=stops):
            pass
        both = [*found.ids, *rest.ids]
        return Stretch(both, found.logprob + rest.logprob)

    def _add(self, at: int, opened: int, closed: int | None, said: Stretch) -> None:
        tokens = self.hearing.tokens
        seek = at / self.hearing.processor.rate
        length = self.hearing.processor.window / self.hearing.processor.rate
        end = length if closed is None else tokens.seconds(closed)
        special = {tokens.end, *tokens.timestamps}
        ids = tuple(id for id in said.ids if id not in special)
        text = self.tokenizer.decode(ids)
        if not text.strip():
            return
        self.segments.append(
            Segment(
                seek,
                min(seek + tokens.seconds(opened), self.seconds),
                min(seek + end, self.seconds),
                text,
                ids,
                said.logprob / max(len(said.ids), 1),
            )
        )
