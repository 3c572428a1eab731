"""How many tokens of one sequence a step takes."""

from __future__ import annotations

from inferplane.scheduling.budget import StepBudget
from inferplane.scheduling.plan import SkipReason
from inferplane.scheduling.sequence import Sequence
from inferplane.scheduling.state import SchedulerState

__all__ = ["prefill_chunk"]


def prefill_chunk(
    state: SchedulerState, budget: StepBudget, sequence: Sequence, start: int, remaining: int
) -> int | SkipReason:
    """Size of the next chunk of `remaining` tokens from `start` on, or why there is none.

    Every chunk but the last is a multiple of what the device takes. A shape that does not exist is
    halved until it does.
    """
    limits = state.limits
    splits = limits.chunked and (not sequence.request.pooling or state.features.chunked_pooling)
    if budget.prefills_full:
        return SkipReason.BATCH_FULL
    size = min(remaining, budget.tokens)
    cap = _cap(state)
    if splits and cap:
        size = min(size, max(cap, limits.chunk_multiple))
    while True:
        if size < remaining:
            size = size - size % limits.chunk_multiple if splits else 0
        if size < 1:
            return SkipReason.BUDGET
        if budget.admits(start, size, is_decode=False):
            return size
        if not splits or size <= limits.chunk_multiple:
            return SkipReason.SHAPE
        size = max(size // 2, limits.chunk_multiple)


def _cap(state: SchedulerState) -> int:
    """Tokens of one prefill chunk in company; 0 = no cap."""
    threshold = state.settings.long_prefill_threshold
    if not threshold:
        return 0
    company = len(state.running) + len(state.waiting)
    if company < 2:
        return 0
    if state.settings.adaptive_prefill:
        return max(threshold, state.limits.max_tokens // company)
    return threshold
