"""Experts of quantised checkpoints mean what their weights mean, packed or dequantised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from inferplane.cli.app import run
from inferplane.interfaces import QuantFormat
from inferplane.llm import LLM
from inferplane.quantization.awq import Awq
from inferplane.quantization.compressed_tensors import CompressedTensors
from inferplane.quantization.fp8 import Fp8
from inferplane.quantization.gptq import Gptq
from inferplane.quantization.online import Online
from inferplane.quantization.packing import pack
from inferplane.quantization.reference import dequantize
from inferplane.sampling_params import SamplingParams
from inferplane.testing.tiny import write_tiny_model

IDS = [int(x) for x in np.random.default_rng(0).integers(3, 200, 40)]
GROUP = 32
WEIGHTS = "model.safetensors"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemv"}
FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [32, 32], "fmt": "e4m3"}


REFERENCE = {"kernels": {"quantization": "reference"}}


def logprobs(folder: Path, **settings: Any) -> np.ndarray:
    return served(folder, **settings)[0]


def served(folder: Path, **settings: Any) -> tuple[np.ndarray, int]:
    """(log-probabilities of IDS, matrices of experts that were dequantised)"""
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with LLM(str(folder), device="cpu", dtype="float32", **settings) as llm:
        told = llm.generate([IDS], params)[0].prompt_logprobs
        fallbacks = llm._executor.stats().fallbacks
    assert told is not None
    values = np.array([row.values[0] for row in told if row is not None])
    return values, fallbacks.get("quantized_moe", 0)


def gptq_layer(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    groups = weight.shape[1] // GROUP
    scales = weight.view(len(weight), groups, GROUP).abs().amax(2) / 7
    codes = (weight / scales.repeat_interleave(GROUP, 1)).round().clamp(-8, 7) + 8
    centre = torch.full((groups, len(weight)), 8, dtype=torch.uint8)
    return {
        f"{layer}.qweight": pack(codes.to(torch.uint8), 4).t().contiguous(),
        f"{layer}.qzeros": pack(centre, 4),
        f"{layer}.scales": scales.t().contiguous(),
        f"{layer}.g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }


def awq_layer(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    groups = weight.view(len(weight), -1, GROUP)
    low = groups.amin(2)
    scales = (groups.amax(2) - low) / 15
    zeros = (-low / scales).round().clamp(0, 15)
    codes = ((groups / scales[..., None]).round() + zeros[..., None]).clamp(0, 15)
    return {
        f"{layer}.qweight": pack(codes.view_as(weight).to(torch.uint8), 4),
        f"{layer}.qzeros": pack(zeros.to(torch.uint8), 4),
        f"{layer}.scales": scales,
    }


def fp8_layer(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = (size // 32 for size in weight.shape)
    blocks = weight.view(rows, 32, columns, 32)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).view_as(weight).to(torch.float8_e4m3fn)
    return {f"{layer}.weight": codes, f"{layer}.weight_scale_inv": scales}


WRITERS = {"gptq": (GPTQ, gptq_layer), "awq": (AWQ, awq_layer), "fp8": (FP8_BLOCKS, fp8_layer)}
FORMS = {"gptq": Gptq, "awq": Awq, "fp8": Fp8, "compressed-tensors": CompressedTensors}


def write_quantized(dense: Path, folder: Path, method: str) -> Path:
    """The dense folder's model with its linear layers, experts among them, in a format."""
    if method == "compressed-tensors":
        arguments = ["--method", "int8", "--out", str(folder), "--no-check"]
        assert run(["quantize", str(dense), *arguments]) == 0
        return folder
    config, write = WRITERS[method]
    made = {}
    for name, tensor in load_file(dense / WEIGHTS).items():
        layer = name.removesuffix(".weight")
        made |= write(layer, tensor) if "experts" in name else {name: tensor}
    kept = ["self_attn", "gate", "lm_head"]
    held = json.loads((dense / "config.json").read_text())
    dynamic = {"dynamic": {r"-:.*self_attn.*": {}}} if method == "gptq" else {}
    held["quantization_config"] = {
        **config,
        **dynamic,
        "modules_to_not_convert": kept,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(held))
    save_file(made, folder / WEIGHTS)
    return folder


def write_dense_again(quantized: Path, folder: Path, form: QuantFormat, dense: Path) -> Path:
    """A dense model of the weights that the quantised one stands for."""
    stored, made = load_file(quantized / WEIGHTS), {}
    for name, tensor in load_file(dense / WEIGHTS).items():
        layer = name.removesuffix(".weight")
        is_dense = name in stored and stored[name].dtype == tensor.dtype
        scheme = None if is_dense else form.scheme(layer)
        if scheme is None:
            made[name] = stored[name]
            continue
        held = {part: stored[part] for part in form.tensors(layer)}
        made[name] = dequantize(form.canonical(layer, held), scheme)
    folder.mkdir()
    (folder / "config.json").write_bytes((dense / "config.json").read_bytes())
    save_file(made, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("mixtral", "gptq"),
        ("mixtral", "fp8"),
        ("qwen3_moe", "awq"),
        ("qwen3_moe", "compressed-tensors"),
    ],
)
def test_quantised_experts_compute_what_their_weights_mean(
    kind: str, method: str, tmp_path: Path
) -> None:
    dense = write_tiny_model(tmp_path / "dense", kind)
    quantized = write_quantized(dense, tmp_path / "quantized", method)
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    again = write_dense_again(quantized, tmp_path / "again", FORMS[method](config), dense)
    assert (again / WEIGHTS).read_bytes() != (dense / WEIGHTS).read_bytes()
    got, dequantized = served(quantized, **REFERENCE)
    np.testing.assert_allclose(got, logprobs(again, **REFERENCE), atol=1e-3)
    assert dequantized == sum("experts" in name for name in load_file(dense / WEIGHTS))


def logprobs_there(folder: Path) -> np.ndarray:
    """By transformers, in float32."""
    transformers.logging.set_verbosity_error()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([IDS])
    with torch.inference_mode():
        spread = model(tokens).logits[0].log_softmax(-1)[:-1]
    found: np.ndarray = spread.gather(1, tokens[0, 1:, None])[:, 0].numpy()
    return found


@pytest.mark.parametrize(("kind", "method"), [("mixtral", "gptq"), ("qwen3_moe", "awq")])
def test_experts_that_a_kernel_serves_stay_packed_and_agree_with_transformers(
    kind: str, method: str, tmp_path: Path
) -> None:
    dense = write_tiny_model(tmp_path / "dense", kind)
    quantized = write_quantized(dense, tmp_path / "quantized", method)
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    again = write_dense_again(quantized, tmp_path / "again", FORMS[method](config), dense)
    got, dequantized = served(quantized)
    assert dequantized == 0
    assert np.abs(got - logprobs_there(again)).mean() <= 0.02


@pytest.mark.parametrize(("weights", "limit"), [("int8", 0.05), ("int4", 0.5)])
def test_experts_are_quantised_while_loading(weights: str, limit: float, tmp_path: Path) -> None:
    sizes = {"moe_intermediate_size": 64}
    model = write_tiny_model(tmp_path / "dense", "qwen3_moe", overrides=sizes)
    exact = logprobs(model)
    packed, dequantized = served(model, quantization=weights)
    assert dequantized == 0
    assert 0 < np.abs(packed - exact).mean() <= limit
    alone = write_tiny_model(tmp_path / "again", "qwen3_moe", overrides=sizes)
    form, tensors = Online({"weights": weights}), load_file(alone / WEIGHTS)
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        scheme = form.scheme(layer) if "_proj" in name or layer == "lm_head" else None
        if scheme is not None:
            tensors[name] = dequantize(form.canonical(layer, {name: tensor}), scheme)
    save_file(tensors, alone / WEIGHTS)
    assert np.abs(packed - logprobs(alone)).mean() <= 0.02
