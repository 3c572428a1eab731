"""Who may start: the walk over the waiting queue."""

from __future__ import annotations

from inferplane.scheduling.budget import StepBudget
from inferplane.scheduling.chunking import prefill_chunk
from inferplane.scheduling.hits import Hit
from inferplane.scheduling.plan import ScheduledSequence, SkipReason, StepPlan
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.scheduling.state import SchedulerState

__all__ = ["Admission", "most_positions"]

_NOT_READY = {
    SequenceState.WAITING_GRAMMAR: SkipReason.GRAMMAR,
    SequenceState.WAITING_REMOTE: SkipReason.REMOTE_KV,
    SequenceState.WAITING_INPUT: SkipReason.HELD,
}
_OVERTAKABLE = frozenset((SkipReason.NO_BLOCKS, SkipReason.BUDGET, SkipReason.SHAPE))


class Admission:
    """Moves waiting requests into a plan, in queue order."""

    def __init__(
        self, state: SchedulerState, plan: StepPlan, budget: StepBudget, now: float
    ) -> None:
        self.state = state
        self.plan = plan
        self.budget = budget
        self.now = now
        self._passed: list[tuple[Sequence, SkipReason]] = []
        self._most_overtaken = 0
        """Of those passed by."""
        self._least_blocks = len(state.blocks.groups)
        """Whatever the cache holds, the last token needs a block of its own in each group: with
        fewer to give nobody need be looked up."""

    def walk(self) -> None:
        """Admit until one does not fit; those that are not ready are passed by, in place.

        After a preemption nobody enters: the blocks belong to those that run.
        """
        if self.plan.preempted:
            self._stop(self.state.waiting.after(0), SkipReason.NO_BLOCKS)
            return
        may_overtake = self.state.settings.max_overtakes > 0
        waiting = self.state.waiting.after(0)
        for position, sequence in enumerate(waiting):
            reason = self._not_ready(sequence)
            if reason is not None:
                self.plan.left_out.append((sequence, reason))
                continue
            reason = self._admit(sequence)
            if reason is None:
                if self._overtake():
                    self._stop(waiting[position + 1 :], SkipReason.OVERTAKEN)
                    break
            elif may_overtake and self._may_be_passed(reason):
                self._passed.append((sequence, reason))
                self._most_overtaken = max(self._most_overtaken, sequence.overtaken)
            else:
                self._stop(waiting[position:], reason)
                break
        self.plan.left_out += self._passed

    def hold(self) -> None:
        """This step carries no prefill."""
        self._stop(self.state.waiting.after(0), SkipReason.HELD)

    def _stop(self, behind: list[Sequence], reason: SkipReason) -> None:
        self.plan.behind = behind
        self.plan.behind_reason = reason

    def _may_be_passed(self, reason: SkipReason) -> bool:
        """Whether somebody behind one that does not fit might fit."""
        return (
            reason in _OVERTAKABLE
            and self.budget.tokens > 0
            and self.state.blocks.num_unpromised >= self._least_blocks
        )

    def _not_ready(self, sequence: Sequence) -> SkipReason | None:
        """Why it cannot start whatever room there is."""
        fresh = sequence.state is SequenceState.WAITING
        if not fresh and sequence.state is not SequenceState.PREEMPTED:
            return _NOT_READY[sequence.state]
        if sequence.placeholders:
            return SkipReason.IN_FLIGHT
        return SkipReason.PAUSED if fresh and self.state.paused == "drain" else None

    def _overtake(self) -> bool:
        """One more went past those that did not fit; True when one of them has waited enough."""
        if not self._passed:
            return False
        for position, (sequence, _) in enumerate(self._passed):
            sequence.overtaken += 1
            self._passed[position] = (sequence, SkipReason.OVERTAKEN)
        self._most_overtaken += 1
        return self._most_overtaken >= self.state.settings.max_overtakes

    def _admit(self, sequence: Sequence) -> SkipReason | None:
        """Let it start with its first chunk; None = it runs, else why it does not fit."""
        state = self.state
        if len(state.running) >= state.limits.max_active:
            return SkipReason.BATCH_FULL
        if self.budget.tokens < 1:
            return SkipReason.BUDGET
        if self._passed and self._most_overtaken >= max(1, state.settings.max_overtakes):
            return SkipReason.OVERTAKEN
        if state.blocks.num_unpromised < self._least_blocks:
            return SkipReason.NO_BLOCKS
        reserve = self._reserve(sequence)
        hit = self._lookup(sequence, reserve)
        start = hit.tokens
        remaining = len(sequence.token_ids) - start
        is_decode = remaining == 1 and start > 0 and state.limits.mix
        if is_decode:
            if not self.budget.admits(start, 1, is_decode=True):
                return SkipReason.SHAPE
            size = 1
        else:
            chunk = prefill_chunk(state, self.budget, sequence, start, remaining)
            if isinstance(chunk, SkipReason):
                return chunk
            size = chunk
        if not self._take_blocks(sequence, size, hit, reserve):
            return SkipReason.NO_BLOCKS
        self._enter(sequence, start)
        self._place(sequence, start, size, size == remaining, is_decode)
        return None

    def _reserve(self, sequence: Sequence) -> int:
        """Blocks to promise to a sequence that cannot give way; 0 = it can."""
        if self.state.limits.recompute and not sequence.unresumable:
            return 0
        return self.state.blocks.worst_case(
            most_positions(sequence.num_prompt_tokens, sequence.max_len)
        )

    def _lookup(self, sequence: Sequence, reserve: int) -> Hit:
        """Cached prefix; none for results that need every position computed.

        None either for a promise in a window group: a block shared there does not come back when
        the window moves on, so the promise could not be kept.
        """
        request = sequence.request
        scored = request.sampling.prompt_logprobs is not None and not sequence.num_output_tokens
        if request.pooling or scored or (reserve and self.state.blocks.has_windows):
            return self.state.blocks.no_hit
        return self.state.blocks.lookup(sequence)

    def _take_blocks(self, sequence: Sequence, size: int, hit: Hit, reserve: int) -> bool:
        state = self.state
        whole = state.settings.reserve_whole_prompt or sequence.num_preemptions > 0
        if state.watermark and state.running:
            lacking = state.blocks.shortage(sequence, size, hit, whole, reserve)
            if lacking + state.watermark > 0:
                return False
        return (
            state.blocks.allocate(sequence, size, hit, whole_prompt=whole, reserve=reserve)
            is not None
        )

    def _enter(self, sequence: Sequence, cached: int) -> None:
        """Count the admission and tell the plan."""
        state, counters = self.state, self.state.counters
        counters.admissions += 1
        if sequence.state is SequenceState.PREEMPTED:
            self.plan.resumed.append(sequence.request_id)
            counters.recomputed_tokens += max(0, sequence.lost - cached)
        else:
            self.plan.new.append(sequence.request_id)
            sequence.first_scheduled_s = self.now
            sequence.cached_tokens = min(cached, sequence.num_prompt_tokens)
            counters.prompt_tokens += sequence.num_prompt_tokens
            counters.cached_tokens += sequence.cached_tokens
            if state.blocks.caching:
                counters.prefix_requests += 1
                counters.prefix_queried_tokens += len(sequence.token_ids)
                counters.prefix_hit_tokens += cached
        state.enter_running(sequence)

    def _place(
        self, sequence: Sequence, start: int, size: int, complete: bool, is_decode: bool
    ) -> None:
        samples = complete and not sequence.request.pooling
        is_decode = is_decode and samples
        entry = ScheduledSequence(
            sequence, start, size, samples, is_decode, (), sequence.run, is_decode
        )
        sequence.computed = start + size
        if samples:
            sequence.placeholders += 1
            sequence.sampled_step = self.plan.step
        self.budget.place(entry)
        self.state.set_plain(sequence)


def most_positions(num_prompt_tokens: int, max_len: int) -> int:
    """Most positions whose KV a sequence ever needs: its last token is never an input."""
    return max(num_prompt_tokens, max_len - 1)
