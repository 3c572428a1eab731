"""A picture's id says what is in it, and items cross the socket whole."""

from typing import Any

import numpy as np
import pytest

from inferplane.array_messages import decoder, encoder
from inferplane.engine.messages import Submit, ToEngine
from inferplane.media import MediaItem, media_item
from inferplane.request import Request


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
