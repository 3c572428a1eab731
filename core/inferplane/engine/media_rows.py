"""Which token rows of a step stand for pictures, and for which part of each."""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import Array, MediaRows
from inferplane.media import MediaItem
from inferplane.scheduling.plan import ScheduledSequence

__all__ = ["media_rows"]


def media_rows(
    items: list[ScheduledSequence], special: list[int], query_start: Array, image_token: int
) -> tuple[MediaRows, ...]:
    """One entry for each picture with placeholders among the tokens of the `special` sequences,
    which are all but the plain decodes.

    A step that is computed again after a preemption or by a new worker says the same again.
    """
    found = []
    for i in special:
        sequence = items[i].sequence
        for picture in sequence.items:
            start, end = items[i].start, items[i].start + items[i].num_tokens
            if picture.offset < end and picture.end > start:
                places = _placeholders(picture, sequence.request.prompt_ids, image_token)
                picks = np.flatnonzero((places >= start) & (places < end)).astype(np.int32)
                rows = (places[picks] + (query_start[i] - start)).astype(np.int32)
                found.append(
                    MediaRows(picture.content_id, picture.arrays, len(places), rows, picks)
                )
    return tuple(entry for entry in found if len(entry.rows))


def _placeholders(picture: MediaItem, prompt: tuple[int, ...], image_token: int) -> Array:
    """i32: their positions in the prompt."""
    tokens = np.array(prompt[picture.offset : picture.end], np.int32)
    return (np.flatnonzero(tokens == image_token) + picture.offset).astype(np.int32)
