"""The shape policy of a compiler whose one program serves every step; imports no torch."""

from __future__ import annotations

from inferplane.interfaces import Bucket, ShapePolicy, StepShape

__all__ = ["OneProgram"]


class OneProgram(ShapePolicy):
    """A single mixed bucket that holds whatever the scheduler may plan."""

    def __init__(self, max_tokens: int, max_seqs: int) -> None:
        self._bucket = Bucket("mixed", max(max_tokens, max_seqs), max_seqs)

    def buckets(self) -> tuple[Bucket, ...]:
        """The one."""
        return (self._bucket,)

    def select(self, shape: StepShape) -> Bucket | None:
        """The one, or None for a step beyond the maximum, which then runs op by op."""
        return self._bucket if self._bucket.holds(shape) else None
