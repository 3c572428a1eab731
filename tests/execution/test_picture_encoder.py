"""Embeddings of pictures are made once, kept within bounds, and NaN where they cannot be made."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from inferplane.execution.picture_encoder import PictureEncoder
from inferplane.interfaces import Array, MediaRows, SeesPictures

WIDTH = 4
BYTES = 3 * WIDTH * 4
"""Of one embedding here."""


class Tripled(SeesPictures):
    """Three rows of each picture: its number, twice that, three times."""

    def encode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        number = arrays["number"]
        if number < 0:
            raise ValueError("nothing to see")
        return (torch.arange(1, 4) * number)[:, None].expand(3, WIDTH)

    def largest_picture(self) -> Mapping[str, Array]:
        return {"number": np.array(5.0, np.float32)}


def encoder(most: int = 2) -> PictureEncoder:
    return PictureEncoder(Tripled(), "cpu", torch.float32, WIDTH, most_bytes=most * BYTES)


def picture(number: float, rows: list[int], picks: list[int], count: int = 3) -> MediaRows:
    arrays = {"number": np.array(number, np.float32)}
    return MediaRows(str(number), arrays, count, np.int32(rows), np.int32(picks))


def test_rows_get_the_rows_of_the_embedding_that_they_stand_for() -> None:
    rows, values = encoder().place((picture(2, [7, 8], [1, 2]), picture(5, [1], [0])))
    assert rows.tolist() == [7, 8, 1] and rows.dtype == torch.int64
    assert values[:, 0].tolist() == [4, 6, 5] and values.shape == (3, WIDTH)


@pytest.mark.behaviour("S20")
def test_a_picture_is_encoded_again_only_after_it_was_forgotten() -> None:
    pictures = encoder(most=2)
    for number in (1, 2, 1):
        pictures.place((picture(number, [0], [0]),))
    assert pictures.encoded == 2
    pictures.place((picture(3, [0], [0]),))  # 2 was used least lately
    pictures.place((picture(1, [0], [0]),))
    assert pictures.encoded == 3
    pictures.place((picture(2, [0], [0]),))
    assert pictures.encoded == 4


def test_a_picture_above_the_bound_is_kept_until_the_next() -> None:
    pictures = encoder(most=0)
    for _ in range(3):
        pictures.place((picture(1, [0], [0]),))
    assert pictures.encoded == 1
    pictures.place((picture(2, [0], [0]), picture(1, [1], [0])))
    assert pictures.encoded == 3


@pytest.mark.parametrize("bad", [picture(-1, [4], [0]), picture(2, [4], [3], count=4)])
def test_what_cannot_be_encoded_is_nan_and_its_neighbours_are_not(bad: MediaRows) -> None:
    rows, values = encoder().place((bad, picture(2, [1], [0])))
    assert rows.tolist() == [4, 1]
    assert values[0].isnan().all() and values[1].tolist() == [2.0] * WIDTH
