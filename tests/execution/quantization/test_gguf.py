"""GGUF blocks as a format mean what the gguf package reads from them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.ggml_blocks import BLOCK_SHAPES
from inferplane.quantization.gguf import Gguf
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"


def blocks(kind: str, rows: int, columns: int) -> torch.Tensor:
    """Random blocks with scales that are small finite numbers."""
    elements, size = GGML_BLOCKS[kind]
    random = np.random.default_rng(7)
    raw = random.integers(0, 256, (rows, columns // elements, size), dtype=np.uint8)
    # Where the half-precision scale and minimum lie.
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(
        kind, (0, 2) if BLOCK_SHAPES[kind].has_mins else (0,)
    )
    for place in places:
        small = random.uniform(-0.1, 0.1, raw.shape[:2]).astype(np.float16)
        raw[..., place : place + 2] = small.view(np.uint8).reshape(*raw.shape[:2], 2)
    return torch.from_numpy(raw.reshape(rows, -1))


@pytest.mark.parametrize("kind", BLOCK_SHAPES)
def test_canonical_blocks_mean_what_the_gguf_package_reads(kind: str) -> None:
    raw = blocks(kind, 6, 512)
    form = Gguf({"types": {LAYER: kind}})
    scheme = form.scheme(LAYER)
    assert scheme is not None
    weight = form.canonical(LAYER, {f"{LAYER}.weight": raw})
    check_weight(LAYER, weight, scheme, 6, 512)
    expected = torch.from_numpy(gguf.quants.dequantize(raw.numpy(), Type[kind])).double()
    got = dequantize(weight, scheme).double()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_types_without_integers_and_unlisted_layers_stay_dense() -> None:
    form = Gguf({"types": {LAYER: "IQ2_XXS"}})
    assert form.scheme(LAYER) is None and form.scheme("lm_head") is None
    assert form.loads_dense


def test_broken_blocks_are_named() -> None:
    form = Gguf({"types": {LAYER: "Q4_0"}})
    with pytest.raises(ModelError, match="rows of 17 bytes are no Q4_0 blocks"):
        form.canonical(LAYER, {f"{LAYER}.weight": torch.zeros(2, 17, dtype=torch.uint8)})
    with pytest.raises(ModelError, match="dtype torch.float32, needs torch.uint8"):
        form.canonical(LAYER, {f"{LAYER}.weight": torch.zeros(2, 32)})
    with pytest.raises(ConfigError, match="no types"):
        Gguf({})
