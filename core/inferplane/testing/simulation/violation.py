"""What must hold, by number, and how a simulation fails; each kind has its own exit code."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["INVARIANTS", "Stuck", "Violation"]

INVARIANTS: Mapping[int, str] = {
    1: "free and held blocks add up to the pool",
    2: "a block has as many references as holders",
    3: "the free list has each free block once; block 0 is never written, given blocks are finite",
    4: "idle means that no block is held",
    5: "no shared block is written",
    6: "a table is as long as its positions need, without holes",
    7: "computed positions are known tokens and fall only to an exact value",
    8: "a step keeps every limit, and each entry has a token",
    9: "a request is in one queue, moves legally and ends once",
    10: "after its end a request holds no block, lane or entry",
    11: "outputs come in order, without gaps or repeats, from the row that drew them",
    12: "every slot read holds the reader's own past",
    13: "what is not proven finite is marked, and nobody stands on what failed",
    14: "a prefix hit has equal tokens and tenant",
    15: "a digest and its blocks point at each other",
    16: "what cannot fit is never admitted",
    17: "with work and an idle device, something is scheduled",
    18: "the oldest never gives way, and recomputing is bounded",
    19: "without faults everybody ends within a bound, in order",
    20: "queues stay below their caps and are counted right",
    21: "nobody outlives a deadline",
    22: "tokens and end are those of a run alone",
    23: "no more drafts than allowed; rejected ones leave nothing",
    24: "who needs the host waits for it",
    25: "a replaced worker is not listened to",
    26: "gauges equal a recount",
    27: "only rows with a fault fail",
    28: "a failure of one request's host code ends that request alone",
}
"""The numbers of docs/reliability.md."""


class Violation(AssertionError):
    """An invariant does not hold."""

    exit_code = 20

    def __init__(self, invariant: int, message: str) -> None:
        super().__init__(f"INV-{invariant}, {INVARIANTS[invariant]}: {message}")
        self.invariant = invariant


class Stuck(Violation):
    """Faults have stopped and yet somebody does not finish."""

    exit_code = 21
