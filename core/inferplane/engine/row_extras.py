"""What one sequence asks of its logits beyond a draw: bias, forbidden words, penalties, a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inferplane.engine.thinking import ThinkingState
from inferplane.interfaces import Array
from inferplane.scheduling.sequence import Sequence

if TYPE_CHECKING:
    from inferplane.grammar.matcher import GrammarState

__all__ = ["RowExtras", "SeenTokens", "row_extras"]

_NO_IDS, _NO_VALUES = np.zeros(0, np.int32), np.zeros(0, np.float32)


class SeenTokens:
    """Distinct tokens of one sequence with their counts in the output, kept up step by step."""

    def __init__(self, prompt_ids: tuple[int, ...]) -> None:
        self._places = {token: i for i, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = np.fromiter(self._places, np.int32, len(self._places))
        self._counts = np.zeros(len(self._places), np.int32)
        self._upto = len(prompt_ids)

    def arrays(self, token_ids: list[int]) -> tuple[Array, Array]:
        """i32 ids and counts after `token_ids`, prompt included."""
        for token in token_ids[self._upto :]:
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._ids):
                room = max(64, place)
                self._ids = np.concatenate((self._ids, np.zeros(room, np.int32)))
                self._counts = np.concatenate((self._counts, np.zeros(room, np.int32)))
            self._ids[place] = token
            self._counts[place] += 1
        self._upto = len(token_ids)
        most = len(self._places)
        return self._ids[:most], self._counts[:most]


@dataclass(slots=True)
class RowExtras:
    """Kept while a sequence holds its lane."""

    host: bool
    """Drawn on the host: the device's sampler does not obey these parameters."""
    penalties: tuple[float, float, float] | None
    """Presence, frequency, repetition."""
    seen: SeenTokens | None
    bias_ids: Array
    bias_values: Array
    """What holds at every position."""
    early_ids: Array
    """Forbidden while the index of the token drawn is below `early_until` (min_tokens)."""
    early_until: int
    bad_words: tuple[tuple[int, ...], ...]
    """Of two tokens and more; shorter ones are bias."""
    mask: Array | None
    """u32[ceil(V/32)]"""
    grammar: GrammarState | None = None
    thinking: ThinkingState | None = None
    end_masks: tuple[Array, ...] = ()
    """u32[ceil(V/32)] that leave one token of the marker that ends thinking."""

    def mask_after(self, token_ids: list[int]) -> Array | None:
        """u32[ceil(V/32)] of what may be drawn after these tokens; None = anything."""
        if self.thinking is not None and (due := self.thinking.due(token_ids)) >= 0:
            return self.end_masks[due]
        if self.grammar is None:
            return self.mask
        row = self.grammar.mask(token_ids)
        if row is None or self.mask is None:
            return self.mask if row is None else row
        both = row & self.mask
        return both if both.any() else row  # the grammar is what must not be broken

    def bias(self, token_ids: list[int], position: int) -> tuple[Array, Array]:
        """i32 ids and f32 values to add where the token of index `position` is drawn."""
        if self.thinking is not None and self.thinking.due(token_ids) >= 0:
            return _NO_IDS, _NO_VALUES  # the one token left must stay possible
        forbidden = [word[-1] for word in self.bad_words if _ends_with(token_ids, word[:-1])]
        early = self.early_ids if position < self.early_until else _NO_IDS
        if not forbidden and not len(early):
            return self.bias_ids, self.bias_values
        ids = np.concatenate((self.bias_ids, early, np.array(forbidden, np.int32)))
        values = np.full(len(ids), -np.inf, np.float32)
        values[: len(self.bias_values)] = self.bias_values
        return ids, values


def row_extras(sequence: Sequence, host: bool, vocab_size: int) -> RowExtras | None:
    """None when the sequence asks for a plain draw on the device."""
    request = sequence.request
    params = request.sampling
    words = tuple(word for word in params.bad_words_ids if len(word) > 1)
    single = [word[0] for word in params.bad_words_ids if len(word) == 1]
    given = params.logit_bias or {}
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else set(request.eos_ids))
    early = sorted(stops) if params.min_tokens else []
    masks = (params.allowed_token_ids, params.grammar, params.thinking)
    if not (host or params.penalised or words or single or given or early) and (
        all(mask is None for mask in masks)
    ):
        return None
    limit = params.thinking
    return RowExtras(
        host=host,
        penalties=(
            (params.presence_penalty, params.frequency_penalty, params.repetition_penalty)
            if params.penalised
            else None
        ),
        seen=SeenTokens(request.prompt_ids) if params.penalised else None,
        bias_ids=np.array([*given, *single], np.int32),
        bias_values=np.array([*given.values(), *([-np.inf] * len(single))], np.float32),
        early_ids=np.array(early, np.int32),
        early_until=len(request.prompt_ids) + params.min_tokens,
        bad_words=words,
        mask=None
        if params.allowed_token_ids is None
        else _mask(params.allowed_token_ids, vocab_size),
        thinking=None if limit is None else ThinkingState(limit, len(request.prompt_ids)),
        end_masks=tuple(_mask((id,), vocab_size) for id in limit.end) if limit is not None else (),
    )


def _mask(allowed: tuple[int, ...], vocab_size: int) -> Array:
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def _ends_with(token_ids: list[int], tail: tuple[int, ...]) -> bool:
    return len(token_ids) >= len(tail) and tuple(token_ids[-len(tail) :]) == tail
