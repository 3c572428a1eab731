"""Chat completions on the wire: one body, or chunks that join to the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inferplane.engine.messages import TokenLogprobs
from inferplane.server.answers.frames import FINISH_NAMES, Head, encode, frame, json_text
from inferplane.server.answers.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from inferplane.server.answers.usage import timings, usage
from inferplane.server.generation import Choice, Generation
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["ChatAnswer", "ChatOptions"]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What the request asked of the answer's form."""

    names: TokenNames
    logprobs: bool = False
    token_ids: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    timings: bool = False
    echo: str = ""
    """Text of the message that is continued, when it is to be shown."""


@dataclass(slots=True)
class _Whole:
    """A choice, collected."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    end: TextDelta | None = None


class ChatAnswer:
    """Renders one request's answer; frames are made around the parts that change."""

    def __init__(self, head: Head, generation: Generation, options: ChatOptions) -> None:
        self.head = head
        self.generation = generation
        self.options = options
        self._opening = head.opening()
        self._started: set[int] = set()
        null_usage = b',"usage":null' if options.include_usage else b""
        self._closing = b"]" + null_usage + b"}\n\n"

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when a sequence fails."""
        wholes = [_Whole(texts=[self.options.echo]) for _ in self.generation.choices]
        async for choice, delta in self.generation.events():
            into = wholes[choice.index]
            into.texts.append(delta.text)
            into.logprobs += delta.logprobs or ()
            into.token_ids += delta.token_ids
            if delta.finish is not None:
                into.end = delta
        body = self.head.object()
        body["choices"] = [
            self._choice(choice, whole)
            for choice, whole in zip(self.generation.choices, wholes, strict=True)
        ]
        body["usage"] = usage(self.generation)
        body |= self._prompt_parts()
        if self.options.timings:
            body["timings"] = timings(self.generation)
        return encode(body)

    def _choice(self, choice: Choice, whole: _Whole) -> dict[str, object]:
        assert whole.end is not None and whole.end.finish is not None
        made: dict[str, object] = {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": "".join(whole.texts),
                "refusal": None,
                "annotations": [],
                "reasoning": None,
                "reasoning_content": None,
            },
            "logprobs": self._logprobs(whole.logprobs),
            "finish_reason": FINISH_NAMES[whole.end.finish],
            "stop_reason": whole.end.stop_reason,
        }
        if self.options.token_ids:
            made["token_ids"] = whole.token_ids
        return made

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> dict[str, object] | None:
        return chat_logprobs(entries, self.options.names) if self.options.logprobs else None

    def _prompt_parts(self) -> dict[str, object]:
        parts: dict[str, object] = {}
        if self.options.token_ids:
            parts["prompt_token_ids"] = self.generation.order.prompts[0].ids
        scored = self.generation.choices[0].prompt_logprobs
        if scored is not None:
            parts["prompt_logprobs"] = prompt_logprobs(scored, self.options.names)
        return parts

    def begin(self) -> bytes:
        """The first chunk of each choice."""
        frames = []
        for choice in self.generation.choices:
            chunk = self.head.object()
            delta = {"role": "assistant", "content": self.options.echo}
            chunk["choices"] = [
                {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
            ]
            if self.options.include_usage:
                chunk["usage"] = self._running_usage()
            if self.options.token_ids:
                chunk["prompt_token_ids"] = self.generation.order.prompts[0].ids
            frames.append(frame(chunk))
        return b"".join(frames)

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Chunks for what is new: text, then the end."""
        if delta.finish is None:
            return self._text(choice.index, delta.text, delta)
        if not delta.text:
            return self._end(choice.index, delta, delta)
        return self._text(choice.index, delta.text, delta) + self._end(choice.index, delta, None)

    def _text(self, index: int, text: str, delta: TextDelta) -> bytes:
        return b"".join(
            (
                self._opening,
                b'{"index":%d,"delta":{"content":' % index,
                json_text(text),
                b"}",
                self._extras(delta),
                b',"finish_reason":null}',
                self._close(),
            )
        )

    def _end(self, index: int, delta: TextDelta, late: TextDelta | None) -> bytes:
        """The last chunk of a choice; `late` has tokens that came with no text."""
        assert delta.finish is not None
        return b"".join(
            (
                self._opening,
                b'{"index":%d,"delta":{}' % index,
                self._extras(late if late is not None and late.token_ids else None),
                b',"finish_reason":"%s","stop_reason":' % FINISH_NAMES[delta.finish].encode(),
                encode(delta.stop_reason),
                b"}",
                self._close(),
            )
        )

    def _extras(self, delta: TextDelta | None) -> bytes:
        logprobs = None if delta is None else self._logprobs(delta.logprobs or ())
        ids = b""
        if self.options.token_ids:
            ids = b',"token_ids":' + encode(delta.token_ids if delta is not None else [])
        return b',"logprobs":' + (b"null" if logprobs is None else encode(logprobs)) + ids

    def _close(self) -> bytes:
        if not self.options.continuous_usage:
            return self._closing
        return b'],"usage":' + encode(usage(self.generation)) + b"}\n\n"

    def _running_usage(self) -> dict[str, object] | None:
        return usage(self.generation) if self.options.continuous_usage else None

    def end(self) -> bytes:
        """What follows the last choice's end."""
        if not (self.options.include_usage or self.options.timings):
            return b""
        chunk = self.head.object()
        chunk["choices"] = []
        chunk["usage"] = usage(self.generation) if self.options.include_usage else None
        if self.options.timings:
            chunk["timings"] = timings(self.generation)
        return frame(chunk)
