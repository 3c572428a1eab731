"""Layers written by the compressed-tensors library mean what that library says they mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.compressors.naive_quantized import (
    FloatQuantizationCompressor,
    IntQuantizationCompressor,
)
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.compressed_tensors import CompressedTensors
from inferplane.quantization.reference import dequantize

LAYER = "model.layers.0.mlp.up_proj"
OUTPUTS, INPUTS = 32, 96
WRITERS: dict[str, Any] = {
    "pack-quantized": PackedQuantizationCompressor,
    "int-quantized": IntQuantizationCompressor,
    "float-quantized": FloatQuantizationCompressor,
}


def config(layout: str, weights: dict[str, Any], **group: Any) -> dict[str, Any]:
    entry = {"targets": ["Linear"], "weights": weights, **group}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": entry},
        "ignore": ["lm_head"],
    }


def written(layout: str, weights: dict[str, Any], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """(tensors of a random layer as the library stores them, what it reads back)."""
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUTPUTS, INPUTS, generator=random)
    shape = {
        "tensor": (1,),
        "channel": (OUTPUTS, 1),
        "group": (OUTPUTS, INPUTS // (weights.get("group_size") or 1)),
        "block": (OUTPUTS // 16, INPUTS // 32),
    }[weights["strategy"]]
    steps = 448 if weights["type"] == "float" else 2 ** (weights["num_bits"] - 1)
    scale = (torch.rand(shape, generator=random) + 2.0) / steps
    held = {"weight": weight, "weight_scale": scale}
    if not weights["symmetric"]:
        low, high = -(2 ** (weights["num_bits"] - 1)), 2 ** (weights["num_bits"] - 1)
        held["weight_zero_point"] = torch.randint(
            low, high, shape, generator=random, dtype=torch.int8
        )
    stored = WRITERS[layout].compress(held, scheme)
    back = WRITERS[layout].decompress(stored, scheme)["weight"]
    return {f"{LAYER}.{name}": tensor for name, tensor in stored.items()}, back


def weights_of(**changes: Any) -> dict[str, Any]:
    base = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"}
    return base | changes


def read_back(layout: str, weights: dict[str, Any], seed: int = 0) -> tuple[Tensor, Tensor]:
    tensors, expected = written(layout, weights, seed)
    form = CompressedTensors(config(layout, weights))
    scheme = form.scheme(LAYER)
    assert scheme is not None and set(form.tensors(LAYER)) == set(tensors)
    weight = form.canonical(LAYER, tensors)
    check_weight(LAYER, weight, scheme, OUTPUTS, INPUTS)
    return dequantize(weight, scheme), expected


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
    strategy=st.sampled_from([("channel", None), ("group", 32), ("group", 48)]),
    seed=st.integers(0, 2**32),
)
def test_packed_integers(
    bits: int, symmetric: bool, strategy: tuple[str, int | None], seed: int
) -> None:
    name, size = strategy
    weights = weights_of(num_bits=bits, symmetric=symmetric, strategy=name)
    if size:
        weights["group_size"] = size
    got, expected = read_back("pack-quantized", weights, seed)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    symmetric=st.booleans(),
    strategy=st.sampled_from(["tensor", "channel", "group"]),
    seed=st.integers(0, 2**32),
)
def test_plain_integers(symmetric: bool, strategy: str, seed: int) -> None:
    weights = weights_of(num_bits=8, symmetric=symmetric, strategy=strategy)
    if strategy == "group":
        weights["group_size"] = 32
    got, expected = read_back("int-quantized", weights, seed)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_fp8(strategy: str) -> None:
    weights = weights_of(num_bits=8, type="float", strategy=strategy)
    if strategy == "block":
        weights["block_structure"] = [16, 32]
    got, expected = read_back("float-quantized", weights)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_activation_ordered_groups_are_sorted_by_input() -> None:
    weights = weights_of(strategy="group", group_size=32)
    tensors, _ = written("pack-quantized", weights, 3)
    random = torch.Generator().manual_seed(1)
    group_of = (torch.arange(INPUTS) // 32)[torch.randperm(INPUTS, generator=random)]
    tensors[f"{LAYER}.weight_g_idx"] = group_of.int()
    form = CompressedTensors(config("pack-quantized", weights | {"actorder": "group"}))
    scheme = form.scheme(LAYER)
    assert scheme is not None and scheme.reordered
    weight = form.canonical(LAYER, tensors)
    check_weight(LAYER, weight, scheme, OUTPUTS, INPUTS)
    codes = PackedQuantizationCompressor.decompress(
        {k.rpartition(".")[2]: v for k, v in tensors.items()}
        | {"weight_scale": torch.ones(OUTPUTS, 3)},
        QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights)),
    )["weight"]
    expected = codes.double() * tensors[f"{LAYER}.weight_scale"].double()[:, group_of]
    torch.testing.assert_close(dequantize(weight, scheme).double(), expected)


INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}


@pytest.mark.parametrize(
    ("layout", "weights", "inputs", "expected"),
    [
        ("pack-quantized", weights_of(strategy="group", group_size=32), None, ("int4", 32, "")),
        ("pack-quantized", weights_of(num_bits=8), None, ("int8", 0, "")),
        (
            "int-quantized",
            weights_of(num_bits=8),
            INT8 | {"strategy": "token", "dynamic": True},
            ("int8", 0, "int8/token"),
        ),
        (
            "int-quantized",
            weights_of(num_bits=8),
            INT8 | {"strategy": "tensor", "dynamic": False},
            ("int8", 0, "int8/static"),
        ),
        (
            "float-quantized",
            weights_of(num_bits=8, type="float"),
            FP8 | {"strategy": "token", "dynamic": True},
            ("fp8_e4m3", 0, "fp8_e4m3/token"),
        ),
        (
            "float-quantized",
            weights_of(num_bits=8, type="float", strategy="tensor"),
            FP8 | {"strategy": "tensor", "dynamic": False},
            ("fp8_e4m3", 0, "fp8_e4m3/static"),
        ),
        (
            "float-quantized",
            weights_of(num_bits=8, type="float", strategy="block", block_structure=[128, 128]),
            FP8 | {"strategy": "group", "group_size": 128, "dynamic": True},
            ("fp8_e4m3", 128, "fp8_e4m3/token"),
        ),
    ],
)
def test_each_kind_of_checkpoint_has_its_scheme(
    layout: str, weights: dict[str, Any], inputs: Any, expected: tuple[str, int, str]
) -> None:
    form = CompressedTensors(config(layout, weights, input_activations=inputs))
    scheme = form.scheme(LAYER)
    assert scheme is not None
    activation = f"{scheme.activation}/{scheme.activation_scale}" if scheme.activation else ""
    assert (scheme.weight, scheme.group, activation) == expected
    assert (f"{LAYER}.input_scale" in form.tensors(LAYER)) == activation.endswith("static")


def test_the_closest_group_decides_and_ignored_layers_are_kept() -> None:
    held = config("pack-quantized", weights_of(strategy="group", group_size=32))
    held["ignore"] = ["lm_head", "re:.*gate_proj", "model.layers.3.mlp.up_proj"]
    eight = {"targets": ["re:.*down_proj"], "weights": weights_of(num_bits=8)}
    own = {"targets": ["model.layers.1.mlp.down_proj"], "weights": weights_of(num_bits=2)}
    held["config_groups"] |= {"group_1": eight, "group_2": own}
    form = CompressedTensors(held)
    schemes = {
        name: scheme and (scheme.weight, scheme.group)
        for name in (
            "lm_head",
            "model.layers.0.mlp.gate_proj",
            "model.layers.3.mlp.up_proj",
            "model.layers.3.mlp.down_proj",
            "model.layers.1.mlp.down_proj",
            "model.layers.1.mlp.up_proj",
        )
        for scheme in [form.scheme(name)]
    }
    assert list(schemes.values()) == [None, None, None, ("int8", 0), ("int4", 0), ("int4", 32)]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda t: t.pop(f"{LAYER}.weight_scale"), "up_proj.weight_scale' is missing"),
        (lambda t: t.pop(f"{LAYER}.weight_packed"), "up_proj.weight_packed' is missing"),
        (
            lambda t: t.update({f"{LAYER}.weight_shape": torch.tensor([OUTPUTS, 9999])}),
            "cannot hold weights of",
        ),
        (
            lambda t: t.update({f"{LAYER}.weight_scale": torch.ones(OUTPUTS, 2)}),
            r"weight_zero_point' has shape \[4, 3\], needs \[4, 2\]",
        ),
        (
            lambda t: t.update({f"{LAYER}.weight_scale": torch.ones(7, 3)}),
            r"shape \[7, 3\], which fits no 32 outputs",
        ),
        (
            lambda t: t.update({f"{LAYER}.weight_scale": torch.full((OUTPUTS, 3), torch.nan)}),
            "scales are not finite",
        ),
        (lambda t: t.pop(f"{LAYER}.weight_zero_point"), "weight_zero_point' is missing"),
        (
            lambda t: t.update(
                {f"{LAYER}.weight_zero_point": torch.zeros(1, 3, dtype=torch.int32)}
            ),
            r"weight_zero_point' has shape \[1, 3\], needs \[4, 3\]",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_named(edit: Any, fault: str) -> None:
    weights = weights_of(strategy="group", group_size=32, symmetric=False)
    tensors, _ = written("pack-quantized", weights, 0)
    edit(tensors)
    form = CompressedTensors(config("pack-quantized", weights))
    scheme = form.scheme(LAYER)
    assert scheme is not None
    with pytest.raises(ModelError, match=fault):
        check_weight(LAYER, form.canonical(LAYER, tensors), scheme, OUTPUTS, INPUTS)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (config("nvfp4-pack-quantized", weights_of()), "'nvfp4-pack-quantized' is not served"),
        (config("pack-quantized", weights_of()) | {"config_groups": {}}, "at least one group"),
        (
            config("pack-quantized", weights_of()) | {"sparsity_config": {"format": "sparse-24"}},
            "sparse weights",
        ),
        (config("pack-quantized", weights_of(num_bits=64)), "num_bits is 64"),
        (config("float-quantized", weights_of(type="float")), "of 4 bits are not served"),
        (config("pack-quantized", weights_of(strategy="rows")), "strategy is 'rows'"),
        (config("pack-quantized", weights_of(strategy="group")), "has no group_size"),
        (
            config("pack-quantized", weights_of(), output_activations=INT8),
            "quantised outputs",
        ),
        (
            config("int-quantized", weights_of(), input_activations=INT8 | {"symmetric": False}),
            "only symmetric activations of 8 bits",
        ),
        (
            config("float-quantized", weights_of(num_bits=8, type="float", strategy="block")),
            "block_structure is None",
        ),
        (config("pack-quantized", weights_of(), targets="Linear"), "needs a list"),
    ],
)
def test_a_wrong_configuration_is_refused(changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        CompressedTensors(changed)
