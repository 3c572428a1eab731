"""Counters of the engine, kept in constant time, and the report made of them on request."""

from __future__ import annotations

from collections import Counter, deque

from inferplane.engine.messages import EngineStats
from inferplane.interfaces import ExecutorStats, StepBatch
from inferplane.scheduling.plan import StepPlan
from inferplane.scheduling.scheduler import Scheduler

__all__ = ["Counters", "report"]

_MOST_SAMPLES = 4096
"""Step sizes kept between two reports; older ones are dropped."""


class Counters:
    """What happened since the engine started, beyond what the scheduler counts."""

    def __init__(self) -> None:
        self.steps = 0
        self.rejected: Counter[str] = Counter()
        self.step_tokens: deque[int] = deque(maxlen=_MOST_SAMPLES)

    def count_step(self, batch: StepBatch) -> None:
        """A step was enqueued."""
        self.steps += 1
        self.step_tokens.append(len(batch.token_ids))

    def take_step_tokens(self) -> tuple[int, ...]:
        """Tokens of each step since the last call."""
        taken = tuple(self.step_tokens)
        self.step_tokens.clear()
        return taken


def report(
    counters: Counters, scheduler: Scheduler, last_plan: StepPlan, executor: ExecutorStats
) -> EngineStats:
    """Gauges and counters now; step sizes since the last report."""
    reasons = Counter(
        reason.value
        for request, reason in last_plan.skipped.items()
        if request in scheduler.sequences
    )
    blocks, totals = scheduler.blocks, scheduler.counters
    allocated, used = scheduler.slots()
    return EngineStats(
        running=len(scheduler.running),
        waiting=scheduler.num_waiting,
        waiting_by_reason=dict(reasons),
        blocks_total=blocks.usable,
        blocks_free=blocks.num_free,
        slots_allocated=allocated,
        slots_used=used,
        preemptions=totals.preemptions,
        prompt_tokens=totals.prompt_tokens,
        prompt_tokens_cached=totals.cached_tokens,
        generation_tokens=totals.generated_tokens,
        prefix_queried_tokens=totals.prefix_queried_tokens,
        prefix_hit_tokens=totals.prefix_hit_tokens,
        finished=dict(totals.finished),
        rejected=dict(counters.rejected),
        steps=counters.steps,
        step_tokens=counters.take_step_tokens(),
        drafts=totals.drafts,
        draft_tokens=totals.draft_tokens,
        accepted_tokens=totals.accepted_tokens,
        fallbacks=dict(executor.fallbacks),
        compiles_after_start=executor.compiles_after_start,
        real_tokens=executor.real_tokens,
        padded_tokens=executor.padded_tokens,
    )
