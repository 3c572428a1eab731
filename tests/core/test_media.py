"""A picture's id says what is in it, and items cross the socket whole."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inferplane.array_messages import decoder, encoder
from inferplane.engine.messages import Rejected, Submit, ToEngine
from inferplane.errors import RequestError
from inferplane.frames import MOST_FRAME_BYTES
from inferplane.media import MOST_MEDIA_BYTES, MediaItem, check_media_room, media_item
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.null_engine import null_engine, null_plan


def pixels(seed: int = 0) -> np.ndarray[Any, np.dtype[Any]]:
    return np.random.default_rng(seed).random((1, 3, 4, 4), np.float32)


def made(**arrays: np.ndarray[Any, np.dtype[Any]]) -> MediaItem:
    return media_item(offset=3, length=5, arrays=arrays)


def test_equal_pictures_have_one_id_wherever_they_stand() -> None:
    elsewhere = media_item(offset=9, length=5, arrays={"pixel_values": pixels()})
    assert elsewhere.content_id == made(pixel_values=pixels()).content_id
    assert elsewhere != made(pixel_values=pixels())
    assert made(pixel_values=pixels()) == made(pixel_values=pixels())


@pytest.mark.parametrize(
    "other",
    [
        {"pixel_values": pixels(1)},
        {"pixel_values": pixels().astype(np.float64)},
        {"pixel_values": pixels().reshape(3, 1, 4, 4)},
        {"values": pixels()},
        {"pixel_values": pixels(), "image_sizes": np.array([[4, 4]])},
    ],
)
def test_whatever_the_encoder_reads_changes_the_id(
    other: dict[str, np.ndarray[Any, np.dtype[Any]]],
) -> None:
    assert made(**other).content_id != made(pixel_values=pixels()).content_id


def test_the_kind_and_the_order_of_memory_are_told_apart_from_the_values() -> None:
    turned = np.asfortranarray(pixels())
    assert made(pixel_values=turned).content_id == made(pixel_values=pixels()).content_id
    video = media_item(offset=3, length=5, arrays={"pixel_values": pixels()}, kind="video")
    assert video.content_id != made(pixel_values=pixels()).content_id


def test_a_request_crosses_to_the_engine_with_its_pictures() -> None:
    item = media_item(
        offset=3, length=5, arrays={"pixel_values": pixels(), "image_sizes": np.array([[4, 4]])}
    )
    sent = Submit(Request(request_id="r", prompt_ids=(1, 2, 3), items=(item,)))
    got = decoder(ToEngine)(bytearray(encoder()(sent)))
    assert got.request == sent.request
    for name, array in item.arrays.items():
        there = got.request.items[0].arrays[name]
        assert there.dtype == array.dtype
        np.testing.assert_array_equal(there, array)


def test_masks_are_kept_in_a_byte_a_pixel() -> None:
    mask = np.array([[0, 1, 5]])
    item = made(pixel_attention_mask=mask)
    assert item.arrays["pixel_attention_mask"].tolist() == [[False, True, True]]
    assert item.num_bytes == 3


def test_pictures_beyond_what_a_frame_holds_are_refused() -> None:
    assert MOST_MEDIA_BYTES < MOST_FRAME_BYTES - (64 << 20), "beside the rest of a step"
    wide = np.zeros((MOST_MEDIA_BYTES // 3,), np.int8)
    item = MediaItem(content_id="a", offset=0, length=1, arrays={"pixel_values": wide})
    check_media_room((item, item, item), held=0)
    with pytest.raises(RequestError, match="1024 MiB as the model reads them") as alone:
        check_media_room((item,) * 4)
    with pytest.raises(RequestError, match="try later") as beside:
        check_media_room((item, item), held=item.num_bytes + 3)
    assert (alone.value.code, beside.value.code) == ("capacity_exceeded", "queue_full")


def test_an_engine_counts_the_pictures_of_all_that_have_not_ended() -> None:
    engine, _ = null_engine(replace(null_plan(), image_token=9))
    wide = np.zeros((MOST_MEDIA_BYTES // 2,), np.int8)
    item = MediaItem(content_id="a", offset=1, length=1, arrays={"pixel_values": wide})

    def add(name: str) -> str:
        sent = Request(
            request_id=name,
            prompt_ids=(1, 9, 2),
            items=(item,),
            sampling=SamplingParams(max_tokens=2, seed=0),
        )
        answer = engine.add(sent)
        return answer.code if isinstance(answer, Rejected) else ""

    assert [add(name) for name in "abc"] == ["", "", "queue_full"]
    engine.abort(("a",))
    assert add("d") == ""
