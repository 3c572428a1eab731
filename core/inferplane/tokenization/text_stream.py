"""One sequence's outputs as text: detokenised, cut at stop strings, ended once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.tokenization.detokenizer import Detokenizer
from inferplane.tokenization.stop_strings import StopFinder
from inferplane.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from inferplane.engine.messages import SequenceOutput, TokenLogprobs

__all__ = ["TextDelta", "TextStream"]


@dataclass(slots=True)
class TextDelta:
    """What one output adds. False when there is nothing to hand out yet."""

    text: str = ""
    token_ids: Sequence[int] = ()
    """The tokens behind the text; those whose text waits come with the delta that brings it."""
    logprobs: Sequence[TokenLogprobs] | None = None
    """One for each token, when asked for."""
    offsets: Sequence[int] = ()
    """Characters of text before each token; only with logprobs."""
    finish: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended the sequence."""
    error: str = ""

    def __bool__(self) -> bool:
        return bool(self.text) or self.finish is not None


class TextStream:
    """Turns the outputs of one sequence into deltas.

    When a stop string is found, `stopped` becomes True, the delta says STOP, and the caller tells
    the engine; whatever the engine still sends is ignored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        base_offset: int = 0,
        markers: Collection[int] = (),
    ) -> None:
        """`base_offset` is the number of characters before the output, when the prompt is shown.

        Special tokens that are `markers` are part of the text even if the others are hidden.
        """
        self.params = params
        self.stopped = False
        """A stop string was found."""
        self.finished = False
        self.num_tokens = 0
        """Output tokens so far, up to the one that completed a stop string."""
        self._detokenizer = Detokenizer(tokenizer, prompt_ids, params.skip_special_tokens, markers)
        self._finder = (
            StopFinder(params.stop, params.include_stop_str_in_output) if params.stop else None
        )
        self._with_logprobs = params.logprobs is not None
        self._offset = base_offset
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._offsets: list[int] = []

    def feed(self, output: SequenceOutput) -> TextDelta:
        """The next delta. After the end, an empty one."""
        if self.finished:
            return TextDelta()
        ids, finish = output.token_ids, output.finish
        # the token that ended the sequence has no text, unless it is asked for
        silent = (
            len(ids) - 1
            if finish is FinishReason.STOP and not self.params.include_stop_str_in_output
            else len(ids)
        )
        if self._finder is None and not self._with_logprobs:
            text = self._detokenizer.feed(ids[:silent])
            self._token_ids += ids
            self.num_tokens += len(ids)
        else:
            text = self._one_by_one(output, silent)
        if finish is not None and not self.stopped:
            text += self._tail()
        if self.stopped:
            return self._end(text, FinishReason.STOP, self._finder.found if self._finder else None)
        if finish is not None:
            return self._end(text, finish, output.stop_reason, output.error)
        return self._delta(text) if text else TextDelta()

    def _one_by_one(self, output: SequenceOutput, silent: int) -> str:
        pieces: list[str] = []
        for index, id in enumerate(output.token_ids):
            self._token_ids.append(id)
            self.num_tokens += 1
            if output.logprobs is not None:
                self._logprobs.append(output.logprobs[index])
                self._offsets.append(self._offset)
            if index < silent:
                piece = self._detokenizer.feed((id,))
                self._offset += len(piece)
                pieces.append(self._searched(piece))
            if self.stopped:
                break
        return "".join(pieces)

    def _searched(self, piece: str) -> str:
        """The part of a piece that may be handed out; the first `min_tokens` never stop."""
        if self._finder is None or self.num_tokens <= self.params.min_tokens:
            return piece
        text = self._finder.feed(piece)
        self.stopped = self._finder.found is not None
        return text

    def _tail(self) -> str:
        """What detokenizer and finder still hold when the engine has ended the sequence."""
        text = self._searched(self._detokenizer.flush())
        if self._finder is not None and not self.stopped:
            text += self._finder.flush()
        return text

    def _delta(self, text: str) -> TextDelta:
        logprobs = self._logprobs if self._with_logprobs else None
        delta = TextDelta(text, self._token_ids, logprobs, self._offsets)
        self._token_ids, self._logprobs, self._offsets = [], [], []
        return delta

    def _end(
        self, text: str, finish: FinishReason, stop_reason: str | int | None, error: str = ""
    ) -> TextDelta:
        self.finished = True
        delta = self._delta(text)
        delta.finish, delta.stop_reason, delta.error = finish, stop_reason, error
        return delta
