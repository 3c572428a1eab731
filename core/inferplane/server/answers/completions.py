"""Text completions on the wire: one body, or chunks that join to the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inferplane.engine.messages import TokenLogprobs
from inferplane.server.answers.frames import FINISH_NAMES, Framing, Head, encode, frame, json_text
from inferplane.server.answers.logprobs import TokenNames, completion_logprobs, prompt_logprobs
from inferplane.server.answers.usage import timings, usage
from inferplane.server.generation import Choice, Generation
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["CompletionAnswer", "CompletionOptions", "Echo"]


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as it is shown before its output."""

    text: str
    offsets: Sequence[int]
    """Characters before each prompt token."""


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    """What the request asked of the answer's form."""

    names: TokenNames
    logprobs: bool = False
    echoes: Sequence[Echo] = ()
    """One a prompt; empty without echo."""
    nothing_made: bool = False
    """max_tokens 0: the prompt is scored; what the engine made is not shown."""
    prompt_logprobs: bool = False
    token_ids: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    timings: bool = False


@dataclass(slots=True)
class _Whole:
    """A choice, collected."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    end: TextDelta | None = None


class CompletionAnswer(Framing):
    """Renders one request's answer; frames are made around the parts that change."""

    def __init__(self, head: Head, generation: Generation, options: CompletionOptions) -> None:
        self.head = head
        self.generation = generation
        self.options = options
        self._opening = head.opening()
        self._begun: set[int] = set()
        null_usage = b',"usage":null' if options.include_usage else b""
        self._closing = b"]" + null_usage + b"}\n\n"

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when a sequence fails."""
        wholes = [_Whole() for _ in self.generation.choices]
        async for choice, delta in self.generation.events():
            into = wholes[choice.index]
            if not self.options.nothing_made:
                _collect(into, delta)
            if delta.finish is not None:
                into.end = delta
        body = self.head.object()
        body["choices"] = [
            self._choice(choice, whole)
            for choice, whole in zip(self.generation.choices, wholes, strict=True)
        ]
        body["usage"] = self._usage()
        if self.options.timings:
            body["timings"] = timings(self.generation)
        return encode(body)

    def _usage(self) -> dict[str, object]:
        hidden = 0
        if self.options.nothing_made:
            hidden = sum(choice.text.num_tokens for choice in self.generation.choices)
        return usage(self.generation, hidden_tokens=hidden)

    def _choice(self, choice: Choice, whole: _Whole) -> dict[str, object]:
        end = whole.end
        assert end is not None and end.finish is not None
        if self.options.echoes:
            whole = self._with_prompt(choice, whole)
        finish = "length" if self.options.nothing_made else FINISH_NAMES[end.finish]
        made: dict[str, object] = {
            "index": choice.index,
            "text": "".join(whole.texts),
            "logprobs": self._logprobs(whole.token_ids, whole.logprobs, whole.offsets),
            "finish_reason": finish,
            "stop_reason": None if self.options.nothing_made else end.stop_reason,
        }
        if self.options.prompt_logprobs and choice.prompt_logprobs is not None:
            made["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, self.options.names)
        if self.options.token_ids:
            made["prompt_token_ids"] = self.generation.order.prompts[choice.prompt].ids
            shown = len(self.generation.order.prompts[choice.prompt].ids)
            made["token_ids"] = whole.token_ids[shown if self.options.echoes else 0 :]
        return made

    def _with_prompt(self, choice: Choice, whole: _Whole) -> _Whole:
        echo = self.options.echoes[choice.prompt]
        ids = self.generation.order.prompts[choice.prompt].ids
        scored = choice.prompt_logprobs or [None] * len(ids)
        return _Whole(
            [echo.text, *whole.texts],
            [*scored, *whole.logprobs],
            [*ids, *whole.token_ids],
            [*echo.offsets, *whole.offsets],
            whole.end,
        )

    def _logprobs(
        self,
        ids: Sequence[int],
        entries: Sequence[TokenLogprobs | None],
        offsets: Sequence[int],
    ) -> dict[str, object] | None:
        if not self.options.logprobs:
            return None
        return completion_logprobs(ids, entries, offsets, self.options.names)

    def begin(self) -> bytes:
        """Nothing: a text begins with its text."""
        return b""

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Chunks for what is new: the prompt if it is echoed, text, then the end."""
        frames = b""
        if self.options.echoes and choice.index not in self._begun:
            frames = self._prompt(choice)
        if self.options.nothing_made:
            if delta.finish is None:
                return frames
            return frames + self._chunk(choice, "", _Whole(), _finish("length", None))
        new = _Whole()
        _collect(new, delta)
        if delta.finish is None:
            return frames + self._chunk(choice, delta.text, new, _UNFINISHED)
        finish = _finish(FINISH_NAMES[delta.finish], delta.stop_reason)
        if not delta.text:
            return frames + self._chunk(choice, "", new, finish)
        frames += self._chunk(choice, delta.text, new, _UNFINISHED)
        return frames + self._chunk(choice, "", _Whole(), finish)

    def _prompt(self, choice: Choice) -> bytes:
        shown = self._with_prompt(choice, _Whole())
        return self._chunk(choice, shown.texts[0], shown, _UNFINISHED, made=())

    def _chunk(
        self,
        choice: Choice,
        text: str,
        new: _Whole,
        finish: bytes,
        made: Sequence[int] | None = None,
    ) -> bytes:
        """One chunk; `made` are its output ids if those are not all of its tokens."""
        logprobs = self._logprobs(new.token_ids, new.logprobs, new.offsets)
        parts = [
            self._opening,
            b'{"index":%d,"text":' % choice.index,
            json_text(text),
            b',"logprobs":',
            b"null" if logprobs is None or not new.token_ids else encode(logprobs),
            finish,
        ]
        if self.options.token_ids:
            parts += [b',"token_ids":', encode(new.token_ids if made is None else made)]
            if choice.index not in self._begun:
                prompt = self.generation.order.prompts[choice.prompt]
                parts += [b',"prompt_token_ids":', encode(prompt.ids)]
        self._begun.add(choice.index)
        return b"".join((*parts, b"}", self._close()))

    def _close(self) -> bytes:
        if not self.options.continuous_usage:
            return self._closing
        return b'],"usage":' + encode(self._usage()) + b"}\n\n"

    def end(self) -> bytes:
        """What follows the last choice's end."""
        if not (self.options.include_usage or self.options.timings):
            return b""
        chunk = self.head.object()
        chunk["choices"] = []
        chunk["usage"] = self._usage() if self.options.include_usage else None
        if self.options.timings:
            chunk["timings"] = timings(self.generation)
        return frame(chunk)


_UNFINISHED = b',"finish_reason":null'


def _finish(reason: str, stop_reason: str | int | None) -> bytes:
    return b',"finish_reason":"%s","stop_reason":%s' % (reason.encode(), encode(stop_reason))


def _collect(into: _Whole, delta: TextDelta) -> None:
    into.texts.append(delta.text)
    into.token_ids += delta.token_ids
    into.logprobs += delta.logprobs or ()
    into.offsets += delta.offsets
