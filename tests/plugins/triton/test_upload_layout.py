"""Laws of the packed upload: fixed addresses, nothing lost, nothing overwritten."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from inferplane.interfaces import Array
from inferplane_triton.gpu.upload import InputLayout

STEP = {
    "token_ids": np.arange(5, dtype=np.int32),
    "tables": np.arange(12, dtype=np.int32).reshape(3, 4),
    "none": np.empty((0, 2), np.int32),
}


def sent(layout: InputLayout, arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """What the device holds after one copy of what `pack` wrote."""
    staging = np.full(len(layout.buffer), 255, np.uint8)
    size = layout.pack(arrays, staging)
    layout.buffer[:size].copy_(torch.from_numpy(staging[:size]))
    return layout.tensors(arrays)


def test_every_array_arrives_in_its_own_type_and_shape() -> None:
    arrays = {**STEP, "bias": np.array([0.5, -1], np.float32), "seed": np.array([7], np.int64)}
    tensors = sent(InputLayout(arrays, "cpu"), arrays)
    for name, array in arrays.items():
        assert np.array_equal(tensors[name].numpy(), array) and tensors[name].dtype == (
            torch.from_numpy(array).dtype
        )


def test_what_comes_later_goes_behind_and_moves_nothing() -> None:
    layout = InputLayout(STEP, "cpu", room_bytes=4096)
    first = {name: tensor.data_ptr() for name, tensor in sent(layout, STEP).items()}
    more = {**STEP, "sampling.seed": np.arange(3, dtype=np.int64)}
    assert layout.place(more) == {}
    tensors = sent(layout, more)
    assert {name: tensors[name].data_ptr() for name in STEP} == first
    assert tensors["sampling.seed"].tolist() == [0, 1, 2]
    assert tensors["tables"].tolist() == STEP["tables"].tolist()


def test_what_finds_no_room_is_handed_back_and_the_rest_is_sent() -> None:
    layout = InputLayout(STEP, "cpu", room_bytes=256)
    large = {**STEP, "bitmask": np.ones((3, 400), np.int32)}
    assert set(layout.place(large)) == {"bitmask"}
    tensors = sent(layout, large)
    assert set(tensors) == set(STEP) and tensors["token_ids"].tolist() == [0, 1, 2, 3, 4]


def test_an_array_of_another_shape_does_not_take_the_old_place() -> None:
    layout = InputLayout(STEP, "cpu", room_bytes=4096)
    kept = layout.tensors(STEP)["token_ids"].data_ptr()
    longer = {**STEP, "token_ids": np.arange(9, dtype=np.int32)}
    assert layout.place(longer) == {}
    assert sent(layout, longer)["token_ids"].data_ptr() != kept
    assert layout.place(STEP) == {}
    assert sent(layout, STEP)["token_ids"].data_ptr() == kept
