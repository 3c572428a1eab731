"""Models compressed by the compressed-tensors library compute what that library computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

W4 = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
W4_ZERO = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)
W8 = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
FP8 = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel")
FP8_ONE = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="tensor")
FP8_BLOCK = QuantizationArgs(
    num_bits=8, type="float", symmetric=True, strategy="block", block_structure=[32, 32]
)
A8 = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
A_FP8 = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="token", dynamic=True)
A_STATIC = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="tensor")

CASES: dict[str, tuple[str, QuantizationArgs, QuantizationArgs | None]] = {
    "w4a16": ("pack-quantized", W4, None),
    "w4a16-zero-points": ("pack-quantized", W4_ZERO, None),
    "w8a16": ("pack-quantized", W8, None),
    "w8a8": ("int-quantized", W8, A8),
    "fp8": ("float-quantized", FP8, A_FP8),
    "fp8-static": ("float-quantized", FP8_ONE, A_STATIC),
    "fp8-block": ("float-quantized", FP8_BLOCK, None),
}


def scales(weight: Tensor, args: QuantizationArgs) -> tuple[Tensor, Tensor | None]:
    """Round-to-nearest scales of one matrix: what llm-compressor's observer finds."""
    if args.strategy == "group":
        runs = weight.view(weight.shape[0], -1, args.group_size or 1)
    elif args.strategy == "block":
        rows, columns = args.block_structure or [1, 1]
        cut = weight.view(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
        runs = cut.transpose(1, 2).flatten(2)
    else:
        runs = weight.view(1 if args.strategy == "tensor" else weight.shape[0], 1, -1)
    low, high = runs.amin(2), runs.amax(2)
    if not args.symmetric:
        step = (high - low) / (2**args.num_bits - 1)
        return step, (-low / step - 2 ** (args.num_bits - 1)).round().clamp(-8, 7)
    most = 448.0 if args.type == "float" else 2 ** (args.num_bits - 1) - 1
    step = torch.maximum(-low, high) / most
    return (step.flatten() if args.strategy == "tensor" else step), None


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_with_the_library(case: str, tmp_path: Path, load: Callable[..., Any]) -> None:
    transformers.logging.set_verbosity_error()
    layout, weights, inputs = CASES[case]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    theirs = LlamaForCausalLM(config).eval()
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    apply_quantization_config(
        theirs,
        QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"], format=layout),
    )
    for module in theirs.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            step, zero = scales(module.weight.data, weights)
            module.weight_scale.data = step
            if zero is not None:
                module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
            if hasattr(module, "input_scale"):
                module.input_scale.data = torch.full_like(module.input_scale, 0.01)
    ids = torch.randint(3, 99, (20,)).tolist()
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    compressor = ModelCompressor.from_pretrained_model(theirs)
    compressor.compress_model(theirs)
    theirs.save_pretrained(tmp_path)
    compressor.update_config(tmp_path)
    ours = load(tmp_path)
    assert ours.config.quantization["quant_method"] == "compressed-tensors"
    got = ours.logits(ids)
    if case == "w8a8":
        # The library divides a token's largest activation by 127.5, we and others by 127.
        moved = (got.log_softmax(-1) - expected.log_softmax(-1)).abs()
        assert float(moved.mean()) < 0.02
    else:
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)
