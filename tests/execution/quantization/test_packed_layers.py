"""Layers packed by gptqmodel mean what that library reads from them.

tests/assets/quantization/make_layers.py made the file, in the environment of the tools.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from inferplane.quantization.awq import Awq
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.gptq import Gptq
from inferplane.quantization.reference import dequantize

FILE = Path(__file__).resolve().parents[2] / "assets" / "quantization" / "layers.safetensors"
LAYER = "model.layers.0.mlp.up_proj"
CASES = (
    "awq-gemm",
    "awq-gemv",
    "gptq-2bit-asymmetric",
    "gptq-3bit",
    "gptq-4bit",
    "gptq-4bit-asymmetric",
    "gptq-4bit-asymmetric-v2",
    "gptq-8bit",
)


def test_every_case_of_the_file_is_compared() -> None:
    with safe_open(FILE, "pt") as held:
        assert sorted(held.metadata()) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_layer_packed_by_gptqmodel_means_what_it_reads(case: str) -> None:
    with safe_open(FILE, "pt") as held:
        config = json.loads(held.metadata()[case])
    parts = {name.split("/")[1]: t for name, t in load_file(FILE).items() if f"{case}/" in name}
    tensors = {f"{LAYER}.{part}": tensor for part, tensor in parts.items()}
    expected = tensors.pop(f"{LAYER}.weight")
    form = {"gptq": Gptq, "awq": Awq}[config["quant_method"]](config)
    scheme = form.scheme(LAYER)
    assert scheme is not None and set(form.tensors(LAYER)) <= set(tensors)
    weight = form.canonical(LAYER, tensors)
    check_weight(LAYER, weight, scheme, *expected.shape)
    torch.testing.assert_close(dequantize(weight, scheme), expected, atol=1e-6, rtol=1e-6)
