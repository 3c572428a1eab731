"""Where one output stands in its thinking, and which token must end it.

The state follows from the emitted tokens alone, so it survives preemption and restarts.
"""

from __future__ import annotations

from collections.abc import Sequence

from inferplane.sampling_params import Thinking

__all__ = ["ThinkingState"]


class ThinkingState:
    """Counts the tokens of thought of one output against their budget."""

    __slots__ = ("_limit", "_over", "_started", "_tail", "_upto", "spent", "thinking")

    def __init__(self, limit: Thinking, num_prompt_tokens: int) -> None:
        self._limit = limit
        self._upto = num_prompt_tokens
        self._started = 0
        """Tokens of the start marker that were emitted."""
        self._over = False
        """It has ended, or was never begun: nothing is counted any more."""
        self._tail: tuple[int, ...] = ()
        """The last tokens of thought, no more than the end marker has."""
        self.thinking = limit.begun
        self.spent = 0
        """Tokens of thought; markers are none, once they are complete."""

    def due(self, token_ids: Sequence[int]) -> int:
        """Which token of the end marker must come next, by its place; -1 = any token may.

        `token_ids` are prompt and output; they only ever grow.
        """
        if not self._over:
            for place in range(self._upto, len(token_ids)):
                self._take(token_ids[place])
            self._upto = len(token_ids)
        if not self.thinking or self.spent < self._limit.budget:
            return -1
        return self._matched()

    def _take(self, token: int) -> None:
        start, end = self._limit.start, self._limit.end
        if self.thinking:
            self.spent += 1
            self._tail = (*self._tail, token)[-len(end) :]
            if self._tail == end:
                self.spent -= len(end)
                self.thinking, self._over = False, True
        elif not self._over:
            self._over = self._started >= len(start) or token != start[self._started]
            self._started += 1
            self.thinking = not self._over and self._started == len(start)

    def _matched(self) -> int:
        """Tokens at the end of the thought that already begin the end marker."""
        end = self._limit.end
        longest = min(len(self._tail), len(end) - 1)
        return next((n for n in range(longest, 0, -1) if self._tail[-n:] == end[:n]), 0)
