"""A StepBatch becomes the named host arrays of one upload, padded to its bucket.

T tokens, S sequences, R sampled sequences, W = 1 + most drafts of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inferplane.execution.attention_plan import AttentionPart
from inferplane.execution.heard_steps import split_step
from inferplane.execution.programs import part_prefix
from inferplane.interfaces import (
    Array,
    AttentionMeta,
    Bucket,
    SamplingBatch,
    ShapePolicy,
    StepBatch,
)
from inferplane.ops.sampling import SamplingPlan, plan_sampling
from inferplane.sampling.host_sampler import take_rows
from inferplane.shapes import last_rows, pad, shape_of
from inferplane.speech_config import SpeechConfig

__all__ = ["SAMPLING_PREFIX", "InputBuilder", "StepInputs"]

SAMPLING_PREFIX = "sampling."


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step, ready for the upload."""

    batch: StepBatch
    """Padded where `padding` is set."""
    bucket: Bucket | None
    """Of the program that runs it."""
    padding: Bucket | None
    """What the arrays were padded to: the bucket, unless its program takes any shape."""
    arrays: dict[str, Array]
    """What the program takes, always in the same order; `sampling.arrays` go up beside them."""
    metas: tuple[AttentionMeta, ...]
    sampling: SamplingPlan
    num_rows: int
    """Rows of logits that mean something: R * W."""
    width: int
    """W"""


class InputBuilder:
    """Builds inputs for one model on one device."""

    def __init__(
        self,
        parts: Sequence[AttentionPart],
        shapes: ShapePolicy,
        block_size: int,
        max_model_len: int,
        takes_any_shape: Callable[[Bucket], bool],
        overlaps: bool = True,
        speech: SpeechConfig | None = None,
    ) -> None:
        """`takes_any_shape`: steps of this bucket go to their program unpadded; `overlaps`: a step
        may begin before the tokens of the one before it are on the host."""
        self._takes_any_shape = takes_any_shape
        self._overlaps = overlaps
        self._speech = speech
        self._parts = tuple(parts)
        self._shapes = shapes
        self._has_buckets = bool(shapes.buckets())
        self._block_size = block_size
        self._max_model_len = max_model_len

    def build(self, batch: StepBatch, bucket: Bucket | None = None) -> StepInputs:
        """The inputs of a step, in `bucket` or else in the bucket its shape selects."""
        if bucket is None and self._has_buckets:
            bucket = self._shapes.select(shape_of(batch, self._block_size))
        padding = None if bucket is None or self._takes_any_shape(bucket) else bucket
        if padding is not None:
            longest = padding.max_context or self._max_model_len
            # drafts may look a block beyond the longest context
            table_width = max(-(-longest // self._block_size), batch.block_tables[0].shape[1])
            batch = pad(batch, padding, self._block_size, table_width)
        rows_RW, width = _sampled_rows(batch, padding)
        num_rows = rows_RW.size
        rows = rows_RW.reshape(-1)
        if padding is not None:
            rows = np.zeros(padding.num_seqs * width, np.int32)
            rows[:num_rows] = rows_RW.reshape(-1)
        plan = plan_sampling(_spread(batch.sampling, width), len(rows))
        if self._speech is None:
            metas = tuple(part.backend.build(batch, padding) for part in self._parts)
            heard: dict[str, Array] = {}
        else:
            metas, heard = self._split(batch, self._speech)
        arrays = self._arrays(batch, bucket, rows, metas) | heard
        return StepInputs(batch, bucket, padding, arrays, metas, plan, num_rows, width)

    def _split(
        self, batch: StepBatch, speech: SpeechConfig
    ) -> tuple[tuple[AttentionMeta, ...], dict[str, Array]]:
        """Metadata for text and for its audio, and which rows are which."""
        step = split_step(batch, speech.num_states, speech.padded, self._block_size)
        seen = [step.crossing if part.crosses else step.text for part in self._parts]
        metas = tuple(
            AttentionMeta((), {}) if view is None else part.backend.build(view, None)
            for part, view in zip(self._parts, seen, strict=True)
        )
        rows = {"audio_rows": step.audio_rows, "audio_slots": step.audio_slots}
        return metas, {**rows, "text_rows": step.text_rows}

    def _arrays(
        self,
        batch: StepBatch,
        bucket: Bucket | None,
        rows: Array,
        metas: Sequence[AttentionMeta],
    ) -> dict[str, Array]:
        arrays = {"token_ids": batch.token_ids, "positions": batch.positions}
        drawn = batch.token_source >= 0
        if self._overlaps and (bucket is not None or drawn.any()):
            arrays["token_ids"] = np.where(drawn, np.int32(0), batch.token_ids)
            arrays["token_source"] = batch.token_source + np.int32(1)
        if bucket is not None or not np.array_equal(rows, np.arange(len(batch.token_ids))):
            arrays["rows"] = rows  # an eager step that wants every row needs no selection
        if batch.segments is not None:
            arrays["segments"] = batch.segments
        for index, meta in enumerate(metas):
            prefix = part_prefix(index)
            for name, array in meta.arrays.items():
                arrays[prefix + name] = array
        return arrays


def _sampled_rows(batch: StepBatch, bucket: Bucket | None) -> tuple[Array, int]:
    """i32[R,W]: token rows whose logits are wanted; row r begins at its first draft's place."""
    last_R = last_rows(batch, bucket)[batch.sampled]
    if batch.drafts is None:
        return last_R[:, None], 1
    drafts_R = batch.drafts[batch.sampled]
    width = 1 + int(batch.drafts.max(initial=0))
    if bucket is not None:
        width = max(width, bucket.max_query)
    column = np.arange(width, dtype=np.int32)
    rows: Array = np.minimum((last_R - drafts_R)[:, None] + column, last_R[:, None])
    return rows, width


def _spread(sampling: SamplingBatch | None, width: int) -> SamplingBatch | None:
    """Each row `width` times, at successive positions; log-probabilities are those of the first.

    Who wants them has no drafts, so its first row is its only one.
    """
    if sampling is None or width == 1:
        return sampling
    num_rows = len(sampling.temperature)
    spread = take_rows(sampling, np.repeat(np.arange(num_rows), width))
    steps = np.tile(np.arange(width, dtype=np.uint64), num_rows)
    return replace(
        spread,
        position=spread.position + steps,
        num_logprobs=np.where(steps == 0, spread.num_logprobs, -1),
    )
