"""Which steps are captured: decodes by batch size, and short prompts by tokens; pure."""

from __future__ import annotations

from inferplane.interfaces import Bucket, ShapePolicy, StepShape
from inferplane.shapes import DecodeLadder

__all__ = ["StepLadder"]

_PROMPT_TOKENS = tuple(range(64, 513, 64))
_PROMPT_SEQS = 8


class StepLadder(ShapePolicy):
    """Small steps wait for launches, so they are captured; large ones run eagerly, unpadded."""

    def __init__(self, max_num_seqs: int, max_step_tokens: int) -> None:
        self._decodes = DecodeLadder(max_num_seqs, _decode_sizes(max_num_seqs))
        seqs = min(_PROMPT_SEQS, max_num_seqs)
        self._prompts = tuple(
            Bucket("mixed", tokens, seqs) for tokens in _PROMPT_TOKENS if tokens <= max_step_tokens
        )

    def buckets(self) -> tuple[Bucket, ...]:
        """Largest first, prompts after decodes."""
        return (*self._decodes.buckets(), *reversed(self._prompts))

    def select(self, shape: StepShape) -> Bucket | None:
        """A decode bucket, else the smallest that holds a short step with prompts, else none."""
        decode = self._decodes.select(shape)
        if decode is not None:
            return decode
        return next((bucket for bucket in self._prompts if bucket.holds(shape)), None)


def _decode_sizes(most: int) -> tuple[int, ...]:
    """Padding rows cost as much as real ones: steps of 8 to 128, of 16 to 256, of 64 beyond."""
    steps = (1, 2, 4, *range(8, 129, 8), *range(144, 257, 16), *range(320, most, 64))
    return (*(size for size in steps if size < most), most)
