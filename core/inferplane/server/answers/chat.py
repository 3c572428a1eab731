"""Chat completions on the wire: one body, or chunks that join to the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inferplane.engine.messages import TokenLogprobs
from inferplane.server.answers.chat_events import ChoiceReader, call_id
from inferplane.server.answers.frames import Framing, Head, encode, frame, json_text
from inferplane.server.answers.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from inferplane.server.answers.usage import timings, usage
from inferplane.server.generation import Choice, Generation
from inferplane.server.tools.events import Content, Event, Reasoning, ToolCall
from inferplane.tokenization.text_stream import TextDelta

__all__ = ["ChatAnswer", "ChatOptions"]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What the request asked of the answer's form."""

    names: TokenNames
    reader: Callable[[], ChoiceReader]
    """Makes the reader of one choice."""
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
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    end: TextDelta | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Content):
            self.texts.append(event.text)
        elif isinstance(event, Reasoning):
            self.thoughts.append(event.text)
        else:
            self.calls.append(event)

    def message(self) -> dict[str, object]:
        content = "".join(self.texts)
        thought = "".join(self.thoughts) or None
        made: dict[str, object] = {
            "role": "assistant",
            "content": None if self.calls and not content else content,
            "refusal": None,
            "annotations": [],
            "reasoning": thought,
            "reasoning_content": thought,
        }
        if self.calls:
            made["tool_calls"] = [
                {
                    "id": call_id(),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls
            ]
        return made


class ChatAnswer(Framing):
    """Renders one request's answer; frames are made around the parts that change."""

    def __init__(self, head: Head, generation: Generation, options: ChatOptions) -> None:
        self.head = head
        self.generation = generation
        self.options = options
        self._readers: dict[int, ChoiceReader] = {}
        self._opening = head.opening()
        null_usage = b',"usage":null' if options.include_usage else b""
        self._closing = b"]" + null_usage + b"}\n\n"

    def _reader(self, choice: Choice) -> ChoiceReader:
        if choice.index not in self._readers:
            self._readers[choice.index] = self.options.reader()
        return self._readers[choice.index]

    async def whole(self) -> bytes:
        """The complete body. Raises ApiError when a sequence fails."""
        wholes = [_Whole(texts=[self.options.echo]) for _ in self.generation.choices]
        async for choice, delta in self.generation.events():
            for event in self._reader(choice).read(delta):
                wholes[choice.index].take(event)
            if delta.finish is not None:
                self._note_thoughts(choice)
                wholes[choice.index].end = delta
        body = self.head.object()
        body["choices"] = [
            self._choice(choice, whole)
            for choice, whole in zip(self.generation.choices, wholes, strict=True)
        ]
        body["usage"] = usage(self.generation)
        body |= self._prompt_parts()
        if self.options.timings:
            body["timings"] = timings(self.generation)
        if any(reader.unparsed for reader in self._readers.values()):
            body["warnings"] = _UNPARSED
        return encode(body)

    def _note_thoughts(self, choice: Choice) -> None:
        """Thoughts count as the tokens their text has, however it came."""
        text = "".join(self._reader(choice).thoughts)
        if text:
            choice.reasoning_tokens = len(self.options.names.tokenizer.encode(text))

    def _choice(self, choice: Choice, whole: _Whole) -> dict[str, object]:
        assert whole.end is not None and whole.end.finish is not None
        reader = self._reader(choice)
        token_ids, logprobs = reader.take_tokens()
        made: dict[str, object] = {
            "index": choice.index,
            "message": whole.message(),
            "logprobs": self._logprobs(logprobs),
            "finish_reason": reader.finish_name(whole.end.finish),
            "stop_reason": whole.end.stop_reason,
        }
        if self.options.token_ids:
            made["token_ids"] = token_ids
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
                told = usage(self.generation) if self.options.continuous_usage else None
                chunk["usage"] = told
            if self.options.token_ids:
                chunk["prompt_token_ids"] = self.generation.order.prompts[0].ids
            frames.append(frame(chunk))
        return b"".join(frames)

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Chunks for what is new: thoughts, text, calls, then the end."""
        reader = self._reader(choice)
        calls_before = reader.num_calls
        events = reader.read(delta)
        frames: list[bytes] = []
        index = calls_before
        for event in events:
            if isinstance(event, Content):
                frames.append(self._chunk(choice, b'"content":' + json_text(event.text)))
            elif isinstance(event, Reasoning):
                text = json_text(event.text)
                inner = b'"reasoning":' + text + b',"reasoning_content":' + text
                frames.append(self._chunk(choice, inner))
            else:
                frames += [self._chunk(choice, part) for part in _call_parts(index, event)]
                index += 1
        if delta.finish is not None:
            self._note_thoughts(choice)
            finish = reader.finish_name(delta.finish)
            end = b'"%s","stop_reason":%s' % (finish.encode(), encode(delta.stop_reason))
            frames.append(self._chunk(choice, b"", end))
        return b"".join(frames)

    def _chunk(self, choice: Choice, inner: bytes, finish: bytes = b"null") -> bytes:
        """One chunk; tokens that wait go with it."""
        reader = self._reader(choice)
        token_ids, logprobs = reader.take_tokens()
        parts = [
            self._opening,
            b'{"index":%d,"delta":{' % choice.index,
            inner,
            b'},"logprobs":',
            encode(self._logprobs(logprobs)) if logprobs else b"null",
        ]
        if self.options.token_ids:
            parts += [b',"token_ids":', encode(token_ids)]
        parts += [b',"finish_reason":', finish, b"}"]
        if finish != b"null" and reader.unparsed:
            parts += [b'],"warnings":', encode(_UNPARSED), self._close()[1:]]
            return b"".join(parts)
        return b"".join((*parts, self._close()))

    def _close(self) -> bytes:
        if not self.options.continuous_usage:
            return self._closing
        return b'],"usage":' + encode(usage(self.generation)) + b"}\n\n"

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


_UNPARSED = ["tool_call_unparsed"]


def _call_parts(index: int, call: ToolCall) -> tuple[bytes, bytes]:
    """Members of the two deltas of a call: who, then with what."""
    who = {
        "index": index,
        "id": call_id(),
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    what = {"index": index, "function": {"arguments": call.arguments}}
    return b'"tool_calls":' + encode([who]), b'"tool_calls":' + encode([what])
