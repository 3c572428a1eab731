"""What the result of a step means: tokens, ends, proven blocks, whom a failed row takes along."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from inferplane.interfaces import Array, StepResult
from inferplane.request import FinishReason
from inferplane.scheduling.drafting import NgramDrafter
from inferplane.scheduling.plan import ScheduledSequence, SequenceEvent, StepPlan
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.scheduling.state import SchedulerState

__all__ = ["Outcome"]

End = Callable[[Sequence, FinishReason, str], None]
"""Takes a sequence out of every queue; the running list is pruned later."""


class Outcome:
    """Applies results in step order."""

    def __init__(self, state: SchedulerState, end: End) -> None:
        self.state = state
        self._end = end
        self._embeddings: Array | None = None
        """Of the step that is being applied; None proves nothing of pooling requests."""

    def apply(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """Events of the step, one a sequence that has news."""
        self._embeddings = result.embeddings
        failed = frozenset(result.failed.tolist()) if result.failed is not None else frozenset()
        if not failed and not self.state.limits.num_drafts and result.token_ids.shape[1] == 1:
            return self._apply_plain(plan, result)
        return self._apply_all(plan, result, failed)

    def _apply_plain(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """No row failed and nobody drafts: almost always one token each, and no more thought."""
        tokens: list[int] = result.token_ids[:, 0].tolist()
        commit = self.state.blocks.commit
        events: list[SequenceEvent] = []
        append = events.append
        row = pooled = dropped = 0
        for entry in plan.scheduled:
            sequence = entry.sequence
            if entry.plain and entry.run == sequence.run:
                token = tokens[row]
                sequence.token_ids.append(token)
                sequence.placeholders -= 1
                sequence.proven = end = entry.start + 1
                sequence.spare = entry
                event = sequence.event
                if event is None:
                    sequence.event = event = SequenceEvent(sequence, [token], row)
                else:
                    event.token_ids[0] = token
                    event.row = row
                append(event)
                row += 1
                if end >= sequence.alert or token in sequence.stop_ids:
                    if end >= sequence.next_full:
                        commit(sequence, end)
                    if token in sequence.stop_ids or end + 1 >= sequence.max_len:
                        self._finish(sequence, token, event)
                continue
            drawn = tokens[row : row + 1] if entry.samples else []
            other = self._apply_entry(entry, row, pooled, drawn)
            row += entry.samples
            pooled += sequence.request.pooling
            if other is not None:
                append(other)
            else:
                dropped += entry.samples
        self.state.counters.generated_tokens += len(tokens) - dropped
        return events

    def _apply_all(
        self, plan: StepPlan, result: StepResult, failed: frozenset[int]
    ) -> list[SequenceEvent]:
        """The same with drafts and failed rows."""
        rows: list[list[int]] = result.token_ids.tolist()
        next_drafts = None if result.next_drafts is None else result.next_drafts.tolist()
        events: list[SequenceEvent] = []
        row = pooled = 0
        for entry in plan.scheduled:
            if entry.samples and row in failed:
                event = self._row_failed(entry, row)
            else:
                drawn = [t for t in rows[row] if t >= 0] if entry.samples else []
                event = self._apply_entry(entry, row, pooled, drawn)
                self.state.counters.generated_tokens += len(event.token_ids) if event else 0
                if entry.samples and entry.run == entry.sequence.run:
                    self._draft(entry.sequence, None if next_drafts is None else next_drafts[row])
            row += entry.samples
            pooled += entry.sequence.request.pooling
            if event is not None:
                events.append(event)
        return events

    def _apply_entry(
        self, entry: ScheduledSequence, row: int, pooled: int, drawn: list[int]
    ) -> SequenceEvent | None:
        """One sequence's share of a result; None when there is nothing to tell."""
        sequence = entry.sequence
        if entry.run < sequence.valid_from:
            return None
        current = entry.run == sequence.run
        if not entry.samples:
            return self._pooled(entry, pooled) if sequence.request.pooling else None
        sequence.placeholders -= 1
        kept = _until_the_end(sequence, drawn)
        sequence.token_ids += kept
        if current:
            self._settle(entry, len(drawn))
        else:
            self.state.waiting.num_tokens += len(kept)
        event = SequenceEvent(sequence, kept, row)
        if kept and _is_last(sequence, kept[-1], len(sequence.token_ids)):
            self._finish(sequence, kept[-1], event)
        elif current:
            self.state.set_plain(sequence)
        return event

    def _settle(self, entry: ScheduledSequence, num_drawn: int) -> None:
        """Take rejected drafts back and prove what was computed, as far as tokens are known."""
        sequence = entry.sequence
        rejected = 0
        if entry.drafts:
            accepted = num_drawn - 1
            rejected = len(entry.drafts) - accepted
            sequence.computed -= rejected
            self._count_drafts(entry.drafts, accepted)
        proven = entry.start + entry.num_tokens - rejected
        self.state.blocks.commit(sequence, min(proven, len(sequence.token_ids)))

    def _count_drafts(self, drafts: tuple[int, ...], accepted: int) -> None:
        real = sum(token >= 0 for token in drafts)
        if not real:
            return
        counters = self.state.counters
        counters.drafts += 1
        counters.draft_tokens += real
        counters.accepted_tokens += accepted
        positions = counters.accepted_per_position
        positions.extend([0] * (real - len(positions)))
        for position in range(accepted):
            positions[position] += 1

    def _draft(self, sequence: Sequence, from_device: list[int] | None) -> None:
        """Guess what comes next, on the device if it did, else on the host."""
        most = self.state.limits.num_drafts
        if not most or sequence.state is not SequenceState.RUNNING:
            return
        if from_device is not None:
            sequence.drafts = [token for token in from_device if token >= 0][:most]
            return
        if sequence.drafter is None:
            sequence.drafter = NgramDrafter()
        sequence.drafts = sequence.drafter.propose(sequence.token_ids, most)

    def _finish(self, sequence: Sequence, token: int, event: SequenceEvent) -> None:
        """Its last token came: end token, then stop id, then length."""
        event.finish = FinishReason.STOP
        if token in sequence.eos_ids:
            pass
        elif token in sequence.stop_ids:
            event.stop_reason = token
        else:
            event.finish = FinishReason.LENGTH
        self._end(sequence, event.finish, "")

    def _pooled(self, entry: ScheduledSequence, row: int) -> SequenceEvent | None:
        """A pooling request is done once its whole prompt went through."""
        sequence = entry.sequence
        end = entry.start + entry.num_tokens
        if end < sequence.num_prompt_tokens:
            return None
        if self._embeddings is not None:
            if not np.isfinite(self._embeddings[row]).all():
                return self._row_failed(entry, row)
            if entry.run == sequence.run:
                self.state.blocks.commit(sequence, end)
        self._end(sequence, FinishReason.STOP, "")
        return SequenceEvent(sequence, [], row, FinishReason.STOP)

    def _row_failed(self, entry: ScheduledSequence, row: int) -> SequenceEvent | None:
        """Logits that are not finite: nothing this row wrote may be found or read by others.

        A row that stood on blocks of others which nobody had proven is computed again alone; else
        the request ends.
        """
        sequence = entry.sequence
        pending = self.state.blocks.cache.index.pending
        on_sand = sequence.on_sand or any(block in pending for block in sequence.adopted)
        self._roll_back_adopters(sequence)
        if entry.run < sequence.valid_from:
            if sequence.state is SequenceState.RUNNING:  # perhaps on what it wrote before
                self._check_ground(sequence)
            return None
        sequence.placeholders -= entry.samples
        if entry.run != sequence.run or on_sand:
            self._draw_again(sequence)
            return None
        self._end(sequence, FinishReason.ERROR, "model_numerical_error")
        return SequenceEvent(sequence, [], row, FinishReason.ERROR, error="model_numerical_error")

    def _draw_again(self, sequence: Sequence) -> None:
        """Compute it alone. What it had adopted before it gave way is not known any more, so a row
        of an earlier stay proves nothing against it."""
        sequence.adopts = False
        if sequence.state is SequenceState.RUNNING:
            self._roll_back(sequence)
        else:
            self.state.forget_in_flight(sequence)

    def _roll_back_adopters(self, failed: Sequence) -> None:
        """Everybody who adopted a block of the failed one, and so on."""
        suspects = [failed]
        while suspects:
            bad = frozenset(self.state.blocks.condemn(suspects.pop()))
            if not bad:
                continue
            for sequence in self.state.running:
                if sequence is failed or sequence.state is not SequenceState.RUNNING:
                    continue
                if not bad.isdisjoint(sequence.adopted):
                    suspects.append(sequence)
        for sequence in reversed(self.state.running):
            if sequence.state is SequenceState.RUNNING and sequence is not failed:
                self._check_ground(sequence)

    def _check_ground(self, sequence: Sequence) -> None:
        """Compute again what stands on a block that was unpublished before it was proven."""
        index = self.state.blocks.cache.index
        if any(index.keys[block] is None for block in sequence.adopted):
            self._roll_back(sequence)

    def _roll_back(self, sequence: Sequence) -> None:
        """Back to the queue; whatever is in flight for it is dropped and sampled again."""
        self.state.requeue(sequence)
        self.state.forget_in_flight(sequence)
        self.state.counters.rollbacks += 1


def _is_last(sequence: Sequence, token: int, num_tokens: int) -> bool:
    """Whether a sequence of so many tokens ends with this one."""
    return token in sequence.stop_ids or num_tokens >= sequence.max_len


def _until_the_end(sequence: Sequence, drawn: list[int]) -> list[int]:
    """Tokens up to the one that ends it."""
    known = len(sequence.token_ids)
    for count, token in enumerate(drawn, 1):
        if _is_last(sequence, token, known + count):
            return drawn[:count]
    return drawn
