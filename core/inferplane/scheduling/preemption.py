"""Who gives way when blocks run out, and what is given back."""

from __future__ import annotations

from inferplane.scheduling.budget import StepBudget
from inferplane.scheduling.plan import StepPlan
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.scheduling.state import SchedulerState

__all__ = ["choose_victim", "preempt"]


def choose_victim(state: SchedulerState) -> Sequence | None:
    """The running sequence that gives way, or None when all are protected.

    The oldest one of the highest priority is never a victim, so somebody always gets done. A device
    without recomputation has reserved everybody's worst case, and so has a sequence that could not
    be recomputed in one step.
    """
    if not state.limits.recompute:
        return None
    running = [s for s in state.running if s.state is SequenceState.RUNNING]
    first = min(running, key=state.policy.rank)
    candidates = [s for s in running if s is not first and not s.unresumable]
    return state.policy.victim(candidates) if candidates else None


def preempt(state: SchedulerState, plan: StepPlan, budget: StepBudget, victim: Sequence) -> None:
    """Free all its blocks and queue it again; what it had in this plan is given back.

    Tokens that steps in flight sample for it are still delivered. The caller prunes the running
    list after the walk.
    """
    entry = budget.take_back(victim)
    if entry is not None:
        victim.computed = entry.start
        if entry.samples:
            victim.placeholders -= 1
    lost = victim.computed
    state.requeue(victim)
    victim.lost = lost
    victim.num_preemptions += 1
    state.counters.preemptions += 1
    plan.preempted.append(victim.request_id)
