"""Tokens x sequences: one packed bucket shape serves prefill, decode and mixed steps alike."""

from __future__ import annotations

from collections.abc import Iterable

from inferplane.interfaces import Bucket, ShapePolicy, StepShape
from inferplane.shapes.sizes import ceil_on, powers_of_two

__all__ = ["TokenGrid"]


class TokenGrid(ShapePolicy):
    """`select` is total within the limits; a step beyond them is not admitted."""

    def __init__(
        self,
        max_tokens: int,
        max_num_seqs: int,
        tokens: Iterable[int] = (),
        seqs: Iterable[int] = (),
    ) -> None:
        """Default sizes are powers of two, tokens from 16 and sequences from 8, and the limits."""
        self._tokens = (
            tuple(sorted({*tokens, max_tokens})) if tokens else powers_of_two(16, max_tokens)
        )
        self._seqs = (
            tuple(sorted({*seqs, max_num_seqs})) if seqs else powers_of_two(8, max_num_seqs)
        )
        pairs = {(t, min(s, t)) for t in self._tokens for s in self._seqs}
        self._buckets = {pair: Bucket("mixed", *pair) for pair in sorted(pairs, reverse=True)}

    def buckets(self) -> tuple[Bucket, ...]:
        """Largest first."""
        return tuple(self._buckets.values())

    def select(self, shape: StepShape) -> Bucket | None:
        """Each dimension rounded up on its own; None only beyond the limits."""
        tokens = ceil_on(self._tokens, shape.num_tokens)
        seqs = ceil_on(self._seqs, shape.num_seqs)
        if tokens is None or seqs is None:
            return None
        return self._buckets[tokens, min(seqs, tokens)]

    def admits(self, shape: StepShape) -> bool:
        """Whether the step is within the limits."""
        return shape.num_tokens <= self._tokens[-1] and shape.num_seqs <= self._seqs[-1]
