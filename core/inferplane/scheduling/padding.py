"""Placeholder drafts that make a batch of speculative decodes uniform."""

from __future__ import annotations

from inferplane.scheduling.budget import StepBudget
from inferplane.scheduling.drafting import may_draft
from inferplane.scheduling.plan import ScheduledSequence
from inferplane.scheduling.state import SchedulerState

__all__ = ["pad_first_decodes"]

_PLACEHOLDER = -1


def pad_first_decodes(state: SchedulerState, budget: StepBudget) -> None:
    """Fill each sequence's first decode step up to 1 + k tokens.

    Not beside a prefill, where nothing is uniform anyway; and all or nothing: what a budget or a
    length would clip is left out.
    """
    wanted = state.features.pad_first_decode and not budget.prefills
    for entry in budget.decodes:
        if entry.sequence.decoded:
            continue
        entry.sequence.decoded = True
        if wanted and may_draft(entry.sequence):
            _pad(state, budget, entry)


def _pad(state: SchedulerState, budget: StepBudget, entry: ScheduledSequence) -> None:
    sequence, num_drafts = entry.sequence, state.limits.num_drafts
    missing = num_drafts - len(entry.drafts)
    longest = sequence.max_len - entry.start - 2
    if missing <= 0 or missing > budget.tokens or num_drafts > longest:
        return
    if not budget.grow(entry, missing):
        return
    sequence.computed = entry.start  # this step still reads the window of its first position
    room = state.blocks.allocate(sequence, 1, lookahead=num_drafts) is not None
    if room:
        entry.drafts += (_PLACEHOLDER,) * missing
        entry.plain = False
    else:
        budget.shrink(entry, missing)
    sequence.computed = entry.start + entry.num_tokens
