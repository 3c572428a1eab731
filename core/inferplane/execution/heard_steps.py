"""One step of a model that hears, as its layers see it: text to itself, and text to its audio.

T tokens, A of them at audio positions and X others; S sequences, P table width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inferplane.errors import ConfigError
from inferplane.execution.attention_plan import AttentionPlan
from inferplane.interfaces import Array, StepBatch
from inferplane.speech_config import AUDIO_MULTIPLE, SpeechConfig

__all__ = ["HeardStep", "check_hearing", "split_step"]


@dataclass(frozen=True, slots=True)
class HeardStep:
    """The rows of a step, apart."""

    audio_rows: Array
    """i64[A]"""
    audio_slots: Array
    """i64[A]"""
    text_rows: Array
    """i64[X]"""
    text: StepBatch | None
    """Text alone, its positions from 0 on, over tables without the audio's blocks; None = none."""
    crossing: StepBatch | None
    """Each token of text as a sequence of its own at the end of its audio; None = none."""


def check_hearing(speech: SpeechConfig | None, attention: AttentionPlan) -> None:
    """Raise ConfigError where a KV block would hold both audio and text."""
    size = attention.block_size
    if speech is not None and AUDIO_MULTIPLE % size:
        raise ConfigError(
            f"block_size {size}: a model that hears needs one that divides {AUDIO_MULTIPLE}, so "
            "that no block holds both audio and text: choose --block-size or another device"
        )


def split_step(batch: StepBatch, num_states: int, padded: int, block_size: int) -> HeardStep:
    """Positions below `padded`, a multiple of `block_size`, are audio's, of which the first
    `num_states` hold something."""
    is_text = batch.positions >= padded
    text_rows, audio_rows = np.flatnonzero(is_text), np.flatnonzero(~is_text)
    slots = batch.slots[0][audio_rows].astype(np.int64)
    if not len(text_rows):
        return HeardStep(audio_rows, slots, text_rows, None, None)
    lengths = np.diff(batch.query_start)
    owners_X = np.repeat(np.arange(len(lengths)), lengths)[text_rows]
    skipped = padded // block_size
    return HeardStep(
        audio_rows,
        slots,
        text_rows,
        _text(batch, text_rows, owners_X, padded, skipped),
        _crossing(batch, text_rows, owners_X, num_states, skipped),
    )


def _text(batch: StepBatch, rows: Array, owners_X: Array, padded: int, skipped: int) -> StepBatch:
    counts = np.bincount(owners_X, minlength=len(batch.seq_lens))
    kept = np.flatnonzero(counts)
    return _only(
        batch,
        rows,
        num_decodes=int((kept < batch.num_decodes).sum()),
        counts=counts[kept],
        seq_lens=batch.seq_lens[kept] - np.int32(padded),
        lanes=batch.lanes[kept],
        tables=batch.block_tables[0][kept, skipped:],
        slots=batch.slots[0][rows],
    )


def _crossing(
    batch: StepBatch, rows: Array, owners_X: Array, num_states: int, skipped: int
) -> StepBatch:
    """Nothing is written, so the slots are the scratch block's."""
    count = len(rows)
    return _only(
        batch,
        rows,
        num_decodes=count,
        counts=np.ones(count, np.int32),
        seq_lens=np.full(count, num_states, np.int32),
        lanes=batch.lanes[owners_X],
        tables=batch.block_tables[0][owners_X, :skipped],
        slots=np.zeros(count, np.int32),
    )


def _only(
    batch: StepBatch,
    rows: Array,
    *,
    num_decodes: int,
    counts: Array,
    seq_lens: Array,
    lanes: Array,
    tables: Array,
    slots: Array,
) -> StepBatch:
    """What attention reads of a step; nothing is sampled from it."""
    query_start = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    before_S = (seq_lens - counts - query_start[:-1]).astype(np.int32)
    return replace(
        batch,
        num_decodes=num_decodes,
        token_ids=batch.token_ids[rows],
        token_source=batch.token_source[rows],
        positions=np.arange(len(rows), dtype=np.int32) + np.repeat(before_S, counts),
        query_start=query_start,
        seq_lens=seq_lens,
        lanes=lanes,
        block_tables=(np.ascontiguousarray(tables),),
        slots=(slots,),
        sampled=np.zeros(0, np.int32),
        sampling=None,
        drafts=None,
        host_rows=None,
        scored=None,
        media=(),
    )
