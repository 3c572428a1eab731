"""Drafts guessed on the host: what followed the last time these tokens stood here.

Prompt lookup decoding (Saxena 2023); each token costs a few dictionary writes, whatever the length.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike

from inferplane.scheduling.sequence import Sequence

__all__ = ["NgramDrafter", "may_draft"]

_SIZES = (4, 3, 2)


def may_draft(sequence: Sequence) -> bool:
    """Whether all positions of a verify step draw by the same rule.

    Not where the rule depends on the tokens before (penalties, forbidden words, host sampling) or
    on the position (min_tokens), nor where log-probabilities are wanted, one entry a row.
    """
    sampling = sequence.request.sampling
    return not (
        sequence.host_bound
        or sampling.logprobs is not None
        or sequence.num_output_tokens < sampling.min_tokens
    )


class NgramDrafter:
    """Index of one sequence's n-grams; longer matches win, then later ones."""

    def __init__(self) -> None:
        self._seen = 0
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in _SIZES]

    def propose(self, token_ids: ListLike[int], num_drafts: int) -> list[int]:
        """At most `num_drafts` tokens that may follow `token_ids`, which only ever grows."""
        self._index(token_ids)
        end = len(token_ids)
        for size, after in zip(_SIZES, self._after, strict=True):
            if end <= size:
                continue
            start = after.get(tuple(token_ids[end - size :]))
            if start is not None:
                return list(token_ids[start : start + num_drafts])
        return []

    def _index(self, token_ids: ListLike[int]) -> None:
        """Remember every n-gram that has a successor."""
        for end in range(max(1, self._seen), len(token_ids)):
            for size, after in zip(_SIZES, self._after, strict=True):
                if end >= size:
                    after[tuple(token_ids[end - size : end])] = end
        self._seen = len(token_ids)
