"""Blocks of every ggml type read back as the gguf package reads them, in pieces and as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from inferplane.checkpoint import TensorInfo
from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.errors import ModelError
from inferplane.loading.gguf import dequantize_tensor

STORED = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS",
    "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
]  # fmt: skip


def written(path: Path, dtype: str, rows: int, columns: int) -> tuple[TensorInfo, Any]:
    """A file of random blocks after 64 other bytes, and the raw rows."""
    block, size = GGML_BLOCKS[dtype]
    random = np.random.default_rng(3)
    raw = random.integers(0, 256, (rows, columns // block * size), dtype=np.uint8)
    if dtype == "F32":
        raw = random.standard_normal((rows, columns), dtype=np.float32).view(np.uint8)
    path.write_bytes(bytes(64) + raw.tobytes())
    return TensorInfo("t", dtype, (rows, columns), path, 64, raw.nbytes), raw


@pytest.mark.parametrize("dtype", STORED)
def test_random_blocks_read_as_the_gguf_package_reads_them(dtype: str, tmp_path: Path) -> None:
    tensor, raw = written(tmp_path / "x", dtype, rows=9, columns=512)
    with np.errstate(all="ignore"):  # random bytes hold infinite scales too
        expected = np.array(gguf.quants.dequantize(raw, Type[dtype]), dtype=np.float32)
        got = dequantize_tensor(tensor)
    np.testing.assert_array_equal(got.numpy(), expected)


def test_a_tensor_longer_than_one_piece_is_read_whole(tmp_path: Path) -> None:
    tensor, raw = written(tmp_path / "x", "F32", rows=3000, columns=1024)
    np.testing.assert_array_equal(dequantize_tensor(tensor).numpy(), raw.view(np.float32))


def test_the_result_has_the_asked_dtype_and_shape(tmp_path: Path) -> None:
    tensor, _ = written(tmp_path / "x", "F32", rows=6, columns=32)
    cube = TensorInfo("t", "F32", (2, 3, 32), tensor.file, 64, tensor.num_bytes)
    got = dequantize_tensor(cube, torch.bfloat16)
    assert got.dtype == torch.bfloat16 and got.shape == (2, 3, 32)


def test_a_type_that_nobody_stores_is_named(tmp_path: Path) -> None:
    tensor, _ = written(tmp_path / "x", "Q8_K", rows=1, columns=256)
    with pytest.raises(ModelError, match="x: tensor 't': ggml type Q8_K cannot be read"):
        dequantize_tensor(tensor)
