"""Buckets for pure decode steps alone: prefill and mixed steps run eagerly, unpadded."""

from __future__ import annotations

from collections.abc import Iterable

from inferplane.interfaces import Bucket, ShapePolicy, StepShape
from inferplane.shapes.sizes import ceil_on, decode_sizes

__all__ = ["DecodeLadder"]


class DecodeLadder(ShapePolicy):
    """One bucket a batch size, for devices that replay captured decode steps."""

    def __init__(self, max_num_seqs: int, sizes: Iterable[int] = (), max_query: int = 1) -> None:
        """`sizes` = batch sizes (default: fine at the bottom, coarse at the top).

        `max_query` = 1 + draft tokens; each sequence has room for as many tokens.
        """
        chosen = sorted(set(sizes)) or decode_sizes(max_num_seqs)
        self._sizes = tuple(chosen)
        self._buckets = {
            size: Bucket("decode", size * max_query, size, max_query=max_query)
            for size in self._sizes
        }
        self._max_query = max_query

    def buckets(self) -> tuple[Bucket, ...]:
        """Largest first."""
        return tuple(self._buckets[size] for size in reversed(self._sizes))

    def select(self, shape: StepShape) -> Bucket | None:
        """The smallest batch size that holds a pure decode step; None for any other step."""
        if shape.num_decodes < shape.num_seqs or shape.max_query > self._max_query:
            return None
        size = ceil_on(self._sizes, shape.num_seqs)
        return None if size is None else self._buckets[size]
