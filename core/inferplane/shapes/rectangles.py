"""Batch x query x context blocks: rectangular buckets, prefill apart from decode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from inferplane.interfaces import Bucket, ShapePolicy, StepShape
from inferplane.shapes.sizes import ceil_on

__all__ = ["Rectangles"]


class Rectangles(ShapePolicy):
    """For devices whose programs take sequences as rows of equal length.

    A prefill bucket has `prefill_batches` x `queries` x `context_blocks`, a decode bucket
    `decode_batches` x 1 x `context_blocks`; rectangles above `max_tokens` do not exist, and a step
    that would need one is not admitted, nor is a mixed step.
    """

    def __init__(
        self,
        *,
        decode_batches: Iterable[int],
        prefill_batches: Iterable[int],
        queries: Iterable[int],
        context_blocks: Iterable[int],
        max_tokens: int,
    ) -> None:
        """Sizes in any order; `context_blocks` counts blocks over all sequences of a step."""
        self._decode = tuple(sorted(set(decode_batches)))
        self._prefill = tuple(sorted(set(prefill_batches)))
        self._queries = tuple(sorted(set(queries)))
        self._blocks = tuple(sorted(set(context_blocks)))
        shapes = [
            *(
                _rectangle("prefill", b, q, c)
                for b in self._prefill
                for q in self._queries
                for c in self._blocks
            ),
            *(_rectangle("decode", b, 1, c) for b in self._decode for c in self._blocks),
        ]
        shapes.sort(key=lambda b: (b.graph, b.num_tokens, b), reverse=True)
        self._buckets = {
            (b.graph, b.num_seqs, b.max_query, b.context_blocks): b
            for b in shapes
            if b.num_tokens <= max_tokens
        }

    def buckets(self) -> tuple[Bucket, ...]:
        """Prefill before decode, largest first."""
        return tuple(self._buckets.values())

    def select(self, shape: StepShape) -> Bucket | None:
        """Each dimension rounded up on its own; None where no such rectangle exists."""
        decode = shape.num_decodes == shape.num_seqs
        if shape.num_decodes and not decode:
            return None
        batches = self._decode if decode else self._prefill
        queries: Sequence[int] = (1,) if decode else self._queries
        batch = ceil_on(batches, shape.num_seqs)
        query = ceil_on(queries, shape.max_query)
        blocks = ceil_on(self._blocks, shape.context_blocks)
        if batch is None or query is None or blocks is None:
            return None
        return self._buckets.get(("decode" if decode else "prefill", batch, query, blocks))

    def admits(self, shape: StepShape) -> bool:
        """Whether a rectangle exists for it."""
        return self.select(shape) is not None


def _rectangle(graph: Literal["decode", "prefill"], batch: int, query: int, blocks: int) -> Bucket:
    return Bucket(graph, batch * query, batch, query, context_blocks=blocks, rectangular=True)
