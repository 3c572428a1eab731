"""One plan: first what runs goes on, then what waits may enter."""

from __future__ import annotations

from inferplane.scheduling.admission import Admission
from inferplane.scheduling.budget import StepBudget
from inferplane.scheduling.chunking import prefill_chunk
from inferplane.scheduling.drafting import may_draft
from inferplane.scheduling.padding import pad_first_decodes
from inferplane.scheduling.plan import ScheduledSequence, SkipReason, StepPlan
from inferplane.scheduling.preemption import choose_victim, preempt
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.scheduling.state import SchedulerState

__all__ = ["StepPlanner"]


class StepPlanner:
    """Builds the plan of one step and moves `computed` of everything in it."""

    def __init__(self, state: SchedulerState, plan: StepPlan) -> None:
        limits = state.limits
        self.state = state
        self.plan = plan
        self.budget = StepBudget(
            limits.max_tokens, limits.max_prefills, state.shapes, state.blocks.block_size
        )

    def run(self, now: float) -> None:
        """Fill the plan."""
        state = self.state
        if state.paused in ("keep", "abort"):
            self._leave_out_everything()
            return
        admission = Admission(state, self.plan, self.budget, now)
        held = self._prefill_is_held()
        if state.limits.mix and not held:
            self._walk(decodes=True, prefills=True)
            admission.walk()
        else:
            self._walk_one_kind(admission, held)
        if self.plan.preempted:
            state.prune_running()
        self._trim_to_shape()
        if state.limits.num_drafts:
            pad_first_decodes(state, self.budget)
        decodes, prefills = self.budget.decodes, self.budget.prefills
        self.plan.scheduled = decodes + prefills if prefills else decodes
        if prefills or self.plan.new or self.plan.resumed:
            state.prefill_step = self.plan.step

    def _walk_one_kind(self, admission: Admission, held: bool) -> None:
        """Prefill or decode, the other kind only when the first finds nothing to do."""
        if held:
            self._walk(decodes=True, prefills=False)
            if self._empty and not self.state.in_flight:
                self._walk(decodes=False, prefills=True)
                admission.walk()
            else:
                self._hold(decodes=False)
                admission.hold()
            return
        self._walk(decodes=False, prefills=True)
        admission.walk()
        if self._empty:
            self._walk(decodes=True, prefills=False)
        else:
            self._hold(decodes=True)

    @property
    def _empty(self) -> bool:
        return not (self.budget.decodes or self.budget.prefills)

    def _prefill_is_held(self) -> bool:
        """Whether the pace keeps prefill back; only steps that ran count."""
        state = self.state
        since = state.step - state.prefill_step
        return since < state.settings.prefill_interval - 1

    def _walk(self, decodes: bool, prefills: bool) -> None:
        """Give every running sequence its share, in admission order.

        The first branch is the life of almost every sequence in almost every step: below
        `plain_limit` exactly one position is left to compute, unless its token is still out.
        """
        budget = self.budget
        append = budget.decodes.append
        ready = self.state.limits.async_steps or not self.state.in_flight
        left = budget.tokens if decodes else 0
        grow = self.state.blocks.grow
        for sequence in self.state.running:
            start = sequence.computed
            if (
                left
                and ready
                and start < sequence.plain_limit
                and (start < sequence.room or grow(sequence))
            ):
                entry = sequence.spare
                if entry is None:
                    run = sequence.run
                    entry = ScheduledSequence(sequence, start, 1, True, True, (), run, True)
                else:
                    sequence.spare = None
                    entry.start = start
                sequence.computed = start + 1
                sequence.placeholders += 1
                append(entry)
                left -= 1
                continue
            if not (decodes if start >= sequence.prefill_end else prefills):
                continue
            if decodes:
                budget.tokens = left
            self._advance(sequence)
            if decodes:
                left = budget.tokens
        if decodes:
            budget.tokens = left

    def _advance(self, sequence: Sequence) -> None:
        """Everything that is not a plain decode step: chunks, drafts, block shortage, skips."""
        if sequence.state is not SequenceState.RUNNING:
            return
        remaining = self._remaining(sequence)
        if isinstance(remaining, SkipReason):
            self.plan.left_out.append((sequence, remaining))
            return
        start = sequence.computed
        if start < sequence.prefill_end:
            self._advance_prefill(sequence, remaining)
            return
        if self.budget.tokens < 1:
            self.plan.left_out.append((sequence, SkipReason.BUDGET))
            return
        drafts = self._drafts(sequence)
        if drafts and not self.budget.admits(start, 1 + len(drafts), is_decode=True):
            drafts = ()
        if not self._make_room(sequence, 1, len(drafts)):
            return
        if sequence.room < start + 1 + len(drafts):
            drafts = ()
        self._place(sequence, 1, samples=True, is_decode=True, drafts=drafts)

    def _advance_prefill(self, sequence: Sequence, remaining: int) -> None:
        start = sequence.computed
        alone = remaining == 1 and start > 0 and self.state.limits.mix
        size = (
            self._last_token(start)
            if alone and not sequence.request.pooling
            else prefill_chunk(self.state, self.budget, sequence, start, remaining)
        )
        if isinstance(size, SkipReason):
            self.plan.left_out.append((sequence, size))
            return
        if not self._make_room(sequence, size, 0):
            return
        samples = size == remaining and not sequence.request.pooling
        self._place(sequence, size, samples=samples, is_decode=alone and samples)

    def _last_token(self, start: int) -> int | SkipReason:
        """A prompt's last token alone looks like a decode step."""
        if self.budget.tokens < 1:
            return SkipReason.BUDGET
        return 1 if self.budget.admits(start, 1, is_decode=True) else SkipReason.SHAPE

    def _remaining(self, sequence: Sequence) -> int | SkipReason:
        """Positions it could compute now, or why none."""
        known = len(sequence.token_ids)
        if sequence.placeholders:
            limits = self.state.limits
            if known + sequence.placeholders >= sequence.max_len:
                return SkipReason.NO_TOKENS
            if (
                not limits.async_steps
                or sequence.host_bound
                or limits.num_drafts
                or (limits.async_steps > 1 and sequence.sampled_step != self.state.step)
            ):
                return SkipReason.IN_FLIGHT
            known += sequence.placeholders
        remaining = known - sequence.computed
        return remaining if remaining > 0 else SkipReason.NO_TOKENS

    def _drafts(self, sequence: Sequence) -> tuple[int, ...]:
        """As many drafts as budget and length leave room for."""
        if not sequence.drafts or not may_draft(sequence):
            return ()
        most = min(
            self.state.limits.num_drafts,
            sequence.max_len - len(sequence.token_ids) - 1,
            self.budget.tokens - 1,
        )
        return tuple(sequence.drafts[: max(0, most)])

    def _make_room(self, sequence: Sequence, num_tokens: int, lookahead: int) -> bool:
        """Allocate, preempting others until it works; drafts are given up first."""
        blocks = self.state.blocks
        while blocks.allocate(sequence, num_tokens, lookahead=lookahead) is None:
            if lookahead:
                lookahead = 0
                continue
            lacking = blocks.shortage(sequence, num_tokens)
            victim = None if blocks.pool.num_fenced >= lacking else choose_victim(self.state)
            if victim is None:
                self.plan.left_out.append((sequence, SkipReason.NO_BLOCKS))
                return False
            preempt(self.state, self.plan, self.budget, victim)
            if victim is sequence:
                return False
        return True

    def _place(
        self,
        sequence: Sequence,
        num_tokens: int,
        *,
        samples: bool,
        is_decode: bool,
        drafts: tuple[int, ...] = (),
    ) -> None:
        start, total = sequence.computed, num_tokens + len(drafts)
        plain = is_decode and total == 1
        entry = ScheduledSequence(
            sequence, start, total, samples, is_decode, drafts, sequence.run, plain
        )
        sequence.computed = start + total
        if samples:
            sequence.placeholders += 1
            sequence.sampled_step = self.plan.step
        self.budget.place(entry)
        self.state.set_plain(sequence)

    def _trim_to_shape(self) -> None:
        """Plain decodes were placed without asking: drop the last ones until the shape exists."""
        budget = self.budget
        while not budget.admitted():
            entry = next((e for e in reversed(budget.decodes) if e.plain), None)
            if entry is None:
                return
            sequence = entry.sequence
            budget.take_back(sequence)
            sequence.computed = entry.start
            sequence.placeholders -= 1
            sequence.sampled_step = -1
            self.plan.left_out.append((sequence, SkipReason.SHAPE))

    def _hold(self, decodes: bool) -> None:
        """Running sequences of a kind that this step does not run."""
        placed = {id(entry.sequence) for entry in self.budget.prefills}
        for sequence in self.state.running:
            if id(sequence) in placed:
                continue
            if (sequence.computed >= sequence.prefill_end) == decodes:
                self.plan.left_out.append((sequence, SkipReason.HELD))

    def _leave_out_everything(self) -> None:
        self.plan.left_out = [(s, SkipReason.PAUSED) for s in self.state.running]
        self.plan.behind = self.state.waiting.after(0)
        self.plan.behind_reason = SkipReason.PAUSED
