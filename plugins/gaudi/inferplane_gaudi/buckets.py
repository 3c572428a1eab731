"""Which steps exist on Gaudi: decodes by batch and blocks, prompts by batch and length; pure."""

from __future__ import annotations

from collections.abc import Callable

from inferplane.interfaces import Bucket, ShapePolicy, StepShape
from inferplane.shapes.sizes import ceil_on, powers_of_two

__all__ = ["LADDERS", "Ladder", "StepBuckets"]

Ladder = Callable[[int, int], tuple[int, ...]]
"""(least, most) -> ascending sizes that end with `most`."""

_LINEAR_STEPS = 8
_LEAST_QUERY = 128
_MOST_WORK = 1.8
"""Tokens that prompts in company may run for each that they would have run alone: nine whole rows
may fill a rectangle of sixteen."""


def _linear(least: int, most: int) -> tuple[int, ...]:
    """Up to eight sizes at equal distances."""
    step = max(least, -(-most // _LINEAR_STEPS))
    return (*range(step, most, step), most)


LADDERS: dict[str, Ladder] = {"exponential": powers_of_two, "linear": _linear}
"""Names of the option `buckets`; the first is the default."""


class StepBuckets(ShapePolicy):
    """Prompts never run beside decodes.

    A decode bucket is a batch and the number of blocks its sequences use together, not each: the
    attention goes over a list of blocks. A prompt bucket is a length; while a prompt is continued
    (chunks, cached prefixes) also the number of blocks of its whole context. Prompts from their
    first token on have buckets of their own, known by `max_context`: they read nothing back.
    Several prompts share a step as the rows of a rectangle that holds the whole context of each,
    so that cached beginnings and last chunks may be among them; a rectangle that would be mostly
    padding is not admitted.
    """

    def __init__(
        self,
        max_num_seqs: int,
        max_step_tokens: int,
        max_model_len: int,
        block_size: int,
        ladder: Ladder = powers_of_two,
    ) -> None:
        most_blocks = -(-max_model_len // block_size)
        self._batches = ladder(1, max_num_seqs)
        self._lists = {size: ladder(size, size * most_blocks) for size in self._batches}
        longest = min(max_step_tokens, max_model_len)
        self._queries = ladder(min(_LEAST_QUERY, longest), longest)
        self._contexts = ladder(1, most_blocks)
        decodes = [_decode(size, blocks) for size, row in self._lists.items() for blocks in row]
        prompts = [_prompt(query) for query in self._queries]
        self._companies = tuple(size for size in powers_of_two(1, max_num_seqs) if size > 1)
        self._most_tokens = max_step_tokens
        company = [
            _company(size, length)
            for size in self._companies
            for length in self._queries
            if size * length <= max_step_tokens
        ]
        below = (0, *self._queries[:-1])
        continued = [
            _continued(query, blocks)
            for shorter, query in zip(below, self._queries, strict=True)
            for blocks in self._contexts
            if blocks * block_size > shorter  # the context holds the query
        ]
        prompts.sort(key=lambda b: b.num_tokens, reverse=True)
        company.sort(key=lambda b: (b.num_tokens, b.num_seqs), reverse=True)
        continued.sort(key=lambda b: (b.num_tokens, b.context_blocks), reverse=True)
        decodes.sort(key=lambda b: (b.num_seqs, b.context_blocks), reverse=True)
        self._all = (*prompts, *company, *continued, *decodes)

    def buckets(self) -> tuple[Bucket, ...]:
        """Prompts, prompts in company, continued prompts, decodes; each largest first."""
        return self._all

    def select(self, shape: StepShape) -> Bucket | None:
        """Each dimension rounded up on its own; None for a step that is not admitted."""
        if shape.num_decodes == shape.num_seqs:
            return self._select_decode(shape)
        if shape.num_decodes:
            return None
        if shape.num_seqs > 1:
            return self._select_company(shape)
        query = ceil_on(self._queries, shape.max_query)
        if query is None:
            return None
        if shape.max_query == shape.max_context:
            return _prompt(query)
        blocks = ceil_on(self._contexts, shape.context_blocks)
        return None if blocks is None else _continued(query, blocks)

    def admits(self, shape: StepShape) -> bool:
        """Whether there is a bucket for it."""
        return self.select(shape) is not None

    def _select_company(self, shape: StepShape) -> Bucket | None:
        size = ceil_on(self._companies, shape.num_seqs)
        length = ceil_on(self._queries, shape.max_context)
        if size is None or length is None or size * length > self._most_tokens:
            return None
        alone = max(shape.num_tokens, shape.num_seqs * self._queries[0])
        return _company(size, length) if size * length <= _MOST_WORK * alone else None

    def _select_decode(self, shape: StepShape) -> Bucket | None:
        size = ceil_on(self._batches, shape.num_seqs)
        if size is None or shape.max_query > 1:
            return None
        blocks = ceil_on(self._lists[size], shape.context_blocks)
        return None if blocks is None else _decode(size, blocks)


def _decode(size: int, blocks: int) -> Bucket:
    return Bucket("decode", size, size, 1, context_blocks=blocks, rectangular=True)


def _prompt(query: int) -> Bucket:
    return Bucket("prefill", query, 1, query, max_context=query, rectangular=True)


def _company(size: int, length: int) -> Bucket:
    tokens = size * length
    return Bucket("prefill", tokens, size, length, max_context=length, rectangular=True)


def _continued(query: int, blocks: int) -> Bucket:
    return Bucket("prefill", query, 1, query, context_blocks=blocks, rectangular=True)
