"""Where one sequence stands in its grammar, and which tokens may come next.

The state follows from the emitted tokens alone, so it survives preemption and restarts.
"""

from __future__ import annotations

import numpy as np
from llguidance import LLMatcher

from inferplane.interfaces import Array
from inferplane.sampling_params import Grammar

__all__ = ["GrammarState"]


class GrammarState:
    """One sequence's place in its grammar. What it thinks first is free."""

    def __init__(
        self, grammar: Grammar, matcher: LLMatcher, num_prompt_tokens: int, width: int
    ) -> None:
        """`matcher` is this sequence's own; `width` is that of the logits."""
        self._matcher = matcher
        self._end = grammar.think_end
        self._start = grammar.think_start
        self._thinking = grammar.thinking
        self._fresh = True
        """Nothing was emitted yet: the model may still begin to think."""
        self._upto = num_prompt_tokens
        self._begun = num_prompt_tokens
        self._words = -(-width // 32)
        self.failed = False
        """It met a token that its grammar forbids."""

    def mask(self, token_ids: list[int]) -> Array | None:
        """u32[ceil(V/32)] of the tokens that may follow; None = any. `token_ids` only ever grow."""
        self._advance(token_ids)
        if self._thinking:
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        row = np.zeros(self._words, np.uint32)
        row[: min(len(bits), self._words)] = bits[: self._words]
        if self._fresh and self._start:
            first = self._start[0]
            row[first // 32] |= np.uint32(1 << (first % 32))
        return row

    def _advance(self, token_ids: list[int]) -> None:
        for place in range(self._upto, len(token_ids)):
            token = token_ids[place]
            if self._fresh and self._start and token == self._start[0]:
                self._thinking = True
            elif self._thinking:
                emitted = token_ids[self._begun : place + 1]
                self._thinking = tuple(emitted[-len(self._end) :]) != self._end
            elif not self._matcher.is_stopped() and not self._matcher.consume_token(token):
                self.failed = True
            self._fresh = False
        self._upto = len(token_ids)
