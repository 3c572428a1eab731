"""Tensors of safetensors files are what was saved, over shards and of every dtype."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.errors import ModelError
from inferplane.loading import iterate_weights


def opened(tmp_path: Path, **files: dict[str, torch.Tensor]) -> Checkpoint:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    for number, tensors in enumerate(files.values(), 1):
        save_file(tensors, tmp_path / f"model-0000{number}-of-0000{len(files)}.safetensors")
    return open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    ],
)
def test_each_dtype_reads_back(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = (torch.arange(12) % 3).view(3, 4).to(dtype)
    got = dict(iterate_weights(opened(tmp_path, only={"t": saved, "u": saved[0].clone()})))
    for name, expected in (("t", saved), ("u", saved[0])):
        assert got[name].dtype == dtype
        assert torch.equal(got[name].view(torch.uint8), expected.contiguous().view(torch.uint8))


def test_shards_are_streamed_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    first = {f"a{n}": torch.full((n + 1,), float(n)) for n in range(5)}
    second = {"b": torch.ones(2, 2), "scalar": torch.tensor(3.0), "nothing": torch.empty(0)}
    checkpoint = opened(tmp_path, one=first, two=second)
    stream = iterate_weights(checkpoint)
    assert len(stream) == 8
    places = []
    for name, tensor in stream:
        assert torch.equal(tensor, (first | second)[name])
        assert stream.origin(name) == str(checkpoint.tensors[name].file)
        places.append((checkpoint.tensors[name].file, checkpoint.tensors[name].offset))
    assert places == sorted(places)


def test_an_unaligned_tensor_reads_as_any_other(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "wide": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    data = bytes([1, 2, 3]) + torch.tensor([1.5, -2.5]).numpy().tobytes()
    raw = len(header).to_bytes(8, "little") + header + data
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(raw)
    got = dict(iterate_weights(open_checkpoint(tmp_path)))
    assert got["wide"].tolist() == [1.5, -2.5] and got["odd"].tolist() == [1, 2, 3]


def test_a_checkpoint_without_weights_says_what_else_there_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no weights.*dummy"):
        iterate_weights(open_checkpoint(tmp_path))
