"""Which rows of a step stand for which part of a picture."""

import numpy as np
import pytest

from inferplane.engine.batch_builder import BatchBuilder
from inferplane.interfaces import KVGroup, KVPlan
from inferplane.media import MediaItem
from inferplane.request import Request
from inferplane.scheduling.plan import ScheduledSequence, StepPlan
from inferplane.scheduling.sequence import Sequence
from inferplane.testing.null import NullPlatform

PLACE = 9
PROMPT = (1, PLACE, PLACE, 2, PLACE, 3, PLACE, PLACE, 4, 5)
ITEMS = tuple(
    MediaItem(content_id=name, offset=offset, length=length, arrays={name: np.ones(2)})
    for name, offset, length in (("a", 1, 4), ("b", 6, 2))
)
"""The first has another token between its placeholders."""


def built(*spans: tuple[int, int], image_token: int | None = PLACE) -> list[tuple]:
    """(content, rows, picks, count) for a step of [start, end) of each of several sequences."""
    kv = KVPlan(40, 4, (KVGroup(),))
    builder = BatchBuilder(
        kv, NullPlatform.sampler, num_lanes=4, max_len=64, vocab_size=100, image_token=image_token
    )
    scheduled, names = [], []
    for lane, (start, end) in enumerate(spans):
        request = Request(request_id=str(lane), prompt_ids=PROMPT, items=ITEMS)
        held = Sequence(request, 0.0, [*PROMPT, PLACE, 7], 64, lane=lane, tables=([3, 4, 5],))
        scheduled.append(ScheduledSequence(held, start, end - start, False, is_decode=False))
        names.append(str(lane))
    batch = builder.build(StepPlan(1, scheduled, new=names)).batch
    assert all(entry.arrays.keys() == {entry.content_id} for entry in batch.media)
    assert all(x.dtype == np.int32 for entry in batch.media for x in (entry.rows, entry.picks))
    return [
        (entry.content_id, entry.rows.tolist(), entry.picks.tolist(), entry.count)
        for entry in batch.media
    ]


@pytest.mark.behaviour("S17")
def test_a_whole_prompt_names_every_placeholder_of_every_picture() -> None:
    assert built((0, 10)) == [("a", [1, 2, 4], [0, 1, 2], 3), ("b", [6, 7], [0, 1], 2)]


@pytest.mark.behaviour("S17")
def test_chunks_name_the_placeholders_among_their_tokens_alone() -> None:
    assert built((0, 2)) == [("a", [1], [0], 3)]
    assert built((2, 7)) == [("a", [0, 2], [1, 2], 3), ("b", [4], [0], 2)]
    assert built((7, 10)) == [("b", [0], [1], 2)]


def test_a_chunk_between_the_tiles_of_a_picture_names_none() -> None:
    assert built((3, 4)) == []


def test_rows_count_over_all_sequences_of_the_step() -> None:
    assert built((4, 6), (5, 8)) == [("a", [0], [2], 3), ("b", [3, 4], [0, 1], 2)]


def test_a_generated_image_token_stands_for_nothing() -> None:
    assert built((8, 12)) == []


def test_a_model_without_pictures_is_told_of_none() -> None:
    assert built((0, 10), image_token=None) == []
