"""Log-probabilities of prompts, gathered over the chunks of their prefill."""

from __future__ import annotations

import numpy as np

from inferplane.engine.messages import TokenLogprobs
from inferplane.interfaces import Logprobs, StepBatch, StepResult
from inferplane.scheduling.plan import StepPlan

__all__ = ["PromptScores", "token_logprobs"]


def token_logprobs(found: Logprobs, row: int, alternatives: int) -> TokenLogprobs:
    """One row: the token itself, then as many alternatives as its request asked for."""
    most = 1 + alternatives
    return TokenLogprobs(
        tuple(found.ids[row, :most].tolist()),
        tuple(found.values[row, :most].tolist()),
        0 if found.ranks is None else int(found.ranks[row]),
    )


class PromptScores:
    """Entries of prompts whose first token has not come yet."""

    def __init__(self) -> None:
        self._entries: dict[str, list[TokenLogprobs | None]] = {}

    def collect(self, plan: StepPlan, batch: StepBatch, result: StepResult) -> None:
        """Take in what one step scored; a position computed twice counts once.

        Who has ended meanwhile is passed by: nobody would ask for it.
        """
        if batch.scored is None or result.scores is None:
            return
        rows = batch.scored[:, 0]
        owners = np.searchsorted(batch.query_start, rows, side="right") - 1
        indices = batch.positions[rows] + 1
        for row, (owner, index) in enumerate(zip(owners.tolist(), indices.tolist(), strict=True)):
            sequence = plan.scheduled[owner].sequence
            if sequence.state.terminal:
                continue
            request = sequence.request
            held = self._entries.setdefault(request.request_id, [None] * len(request.prompt_ids))
            asked = request.sampling.prompt_logprobs or 0
            held[index] = token_logprobs(result.scores, row, asked)

    def __len__(self) -> int:
        """Prompts it holds entries of."""
        return len(self._entries)

    def take(self, request_id: str) -> tuple[TokenLogprobs | None, ...] | None:
        """All entries of a prompt, once; None when nobody asked or its prefill was cut short."""
        held = self._entries.pop(request_id, None)
        return None if held is None or None in held[1:] else tuple(held)
