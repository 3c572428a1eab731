"""One sequence of an offline request: what came of it so far, and at the end."""

from __future__ import annotations

from dataclasses import dataclass

from inferplane.engine.messages import SequenceOutput, TokenLogprobs
from inferplane.request import FinishReason, Request
from inferplane.tokenization.text_stream import TextStream

__all__ = ["Child", "Completion"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one prompt, or of one of its `n` copies."""

    prompt_ids: tuple[int, ...]
    index: int
    """Which of the `n`."""
    text: str
    """Empty for a model without a tokenizer."""
    token_ids: tuple[int, ...]
    finish_reason: str
    """stop, length or error."""
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended it."""
    error: str = ""
    """Why, when `finish_reason` is error."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache."""


class Child:
    """One sequence on its way: tokens and text so far."""

    def __init__(self, request: Request, index: int, text: TextStream | None) -> None:
        self.request = request
        self.index = index
        self._text = text
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
        self._cached_tokens = 0
        self._finish: FinishReason | None = None
        self._stop_reason: str | int | None = None
        self._error = ""

    def take(self, output: SequenceOutput) -> bool:
        """One output; True when the sequence is done."""
        self._prompt_logprobs = output.prompt_logprobs or self._prompt_logprobs
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        if self._text is None:
            self._token_ids += output.token_ids
            self._logprobs += output.logprobs or ()
            self._finish, self._stop_reason = output.finish, output.stop_reason
            self._error = output.error
        else:
            delta = self._text.feed(output)
            self._pieces.append(delta.text)
            self._token_ids += delta.token_ids
            self._logprobs += delta.logprobs or ()
            self._finish, self._stop_reason = delta.finish, delta.stop_reason
            self._error = delta.error
        return self._finish is not None

    def completion(self) -> Completion:
        """What came of it."""
        return Completion(
            prompt_ids=self.request.prompt_ids,
            index=self.index,
            text="".join(self._pieces),
            token_ids=tuple(self._token_ids),
            finish_reason=str(self._finish),
            stop_reason=self._stop_reason,
            error=self._error,
            logprobs=None if self.request.sampling.logprobs is None else tuple(self._logprobs),
            prompt_logprobs=self._prompt_logprobs,
            cached_tokens=self._cached_tokens,
        )
