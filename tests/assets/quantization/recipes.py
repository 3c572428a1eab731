"""Which checkpoints are made, by which tool, and how that tool reads its own result back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf_files

__all__ = ["RECIPES", "TOKENS", "Recipe", "compared_tokens"]

COMPARED = Path(__file__).with_name("compared.txt")
"""Paragraphs of this project's documentation."""
TOKENS = 4096
"""By which results are compared: over fewer, what quantised activations do by chance is more than
1 % of perplexity."""
CALIBRATED = Path(__file__).resolve().parents[3] / "core/inferplane/quantizing/sample.txt"
CALIBRATION = 24
GROUP = 64
"""Divides SmolLM2's 576 and 1536 inputs, which 128 does not."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one tool makes a checkpoint, and what it takes that checkpoint to mean."""

    make: Callable[[Path, Path], None]
    """Quantise the folder of bf16 safetensors, the first argument, into the second."""
    load: Callable[[Path], Any]
    """The tool's own model of a made checkpoint, with float32 arithmetic."""
    own: Callable[[Path], Any] | None = None
    """The same with the tool's kernels, where those compute in 16 bits only."""


def compared_tokens(source: Path) -> list[int]:
    """TOKENS of the text by which results are compared, for the source's tokenizer."""
    return _tokens(source, COMPARED)[:TOKENS]


def _tokens(source: Path, text: Path) -> list[int]:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(source)(text.read_text(encoding="utf-8"))["input_ids"]
    return list(ids)


def transformers_model(folder: Path, **settings: Any) -> Any:
    """As transformers loads it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **settings)


def _calibration(source: Path) -> list[list[int]]:
    rest = _tokens(source, CALIBRATED)[512:]
    step = max(1, (len(rest) - 256) // CALIBRATION)
    return [rest[at : at + 256] for at in range(0, len(rest) - 256, step)][:CALIBRATION]


def _gptqmodel(source: Path, target: Path, **settings: Any) -> None:
    library = _gptqmodel_library()
    config = library.QuantizeConfig(**{"bits": 4, "group_size": GROUP, **settings})
    model = library.GPTQModel.load(str(source), config, device="cpu")
    is_awq = settings.get("quant_method") == "awq"
    # AWQ tries twenty scales for each layer over all samples, an hour for all on two cores.
    pieces = [ids[:64] for ids in _calibration(source)[:1]] if is_awq else _calibration(source)
    texts = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in pieces]
    model.quantize(texts, batch_size=1, backend=_torch_kernel(is_awq))
    model.save(str(target))


def _gptqmodel_kernels(folder: Path) -> Any:
    """gptqmodel's model with its torch kernels, which compute in bf16 whatever is asked."""
    library = _gptqmodel_library()
    backend = _torch_kernel("awq" in folder.name)
    return library.GPTQModel.load(str(folder), device="cpu", backend=backend).model


def _gptqmodel_weights(folder: Path) -> Any:
    """gptqmodel's own dequantisation of the scales as stored, multiplied in float32.

    Its loader rounds stored float16 scales to bf16 and its kernels round inputs, which moves this
    model by 0.04 a token: what is compared is the meaning of the file.
    """
    import torch
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear
    from safetensors.torch import load_file

    model = _gptqmodel_kernels(folder)
    stored = load_file(folder / "model.safetensors")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, BaseQuantLinear)}
    for name, layer in layers.items():
        layer.scales = stored[f"{name}.scales"].float()
        dense = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        dense.weight = torch.nn.Parameter(_dequantized(layer).t().contiguous())
        model.set_submodule(name, dense)
    return model.float()


def _dequantized(layer: Any) -> Any:
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    if hasattr(layer, "dequantize_weight"):
        return layer.dequantize_weight().detach()
    return dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, layer.bits, layer.group_size)


def _gptqmodel_library() -> Any:
    # It asks for two workers even where its own default for few cores is one.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    import gptqmodel

    return gptqmodel


def _torch_kernel(is_awq: bool) -> Any:
    """What the library would choose for AWQ runs on a GPU only."""
    from gptqmodel import BACKEND

    return BACKEND.AWQ_TORCH if is_awq else BACKEND.GPTQ_TORCH


def _compressor(source: Path, target: Path, scheme: Any, **settings: Any) -> None:
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    groups = {"config_groups": {"group_0": scheme}} if isinstance(scheme, dict) else {}
    named = {} if groups else {"scheme": scheme, "targets": ["Linear"]}
    recipe = QuantizationModifier(ignore=["lm_head"], **groups, **named, **settings)
    pieces = _calibration(source)
    data = Dataset.from_dict({"input_ids": pieces, "attention_mask": [[1] * 256] * len(pieces)})
    model = transformers_model(source)
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        max_seq_length=256,
        num_calibration_samples=len(pieces),
        pipeline="basic",
    )
    model.save_pretrained(target, save_compressed=True)


def _torchao(source: Path, target: Path, kind: str) -> None:
    import torchao.quantization
    from transformers import TorchAoConfig

    config = TorchAoConfig(getattr(torchao.quantization, kind)(version=2))
    model = transformers_model(source, quantization_config=config, device_map="cpu")
    model.save_pretrained(target)


def _gptq(**settings: Any) -> Recipe:
    return Recipe(partial(_gptqmodel, **settings), _gptqmodel_weights, _gptqmodel_kernels)


def _compressed(scheme: Any, **settings: Any) -> Recipe:
    return Recipe(partial(_compressor, scheme=scheme, **settings), transformers_model)


def _weights(**weights: Any) -> dict[str, Any]:
    return {"targets": ["Linear"], "weights": weights}


def _gguf(write: Callable[..., None], kind: str) -> Recipe:
    """Read back by transformers, which dequantises with the gguf package."""
    load = partial(transformers_model, gguf_file=gguf_files.FILE)
    return Recipe(partial(write, kind=kind), load)


_PER_OUTPUT = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
_GROUPED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
_KV = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
RECIPES: Mapping[str, Recipe] = {
    "gptq-4bit": _gptq(),
    "gptq-4bit-act-order": _gptq(desc_act=True),
    "gptq-4bit-asymmetric": _gptq(sym=False),
    "gptq-3bit": _gptq(bits=3, group_size=32),
    "gptq-8bit": _gptq(bits=8),
    "awq-gemm": _gptq(quant_method="awq", format="gemm", sym=False),
    "ct-w4a16": _compressed(_weights(**_GROUPED, symmetric=True)),
    "ct-w4a16-asymmetric": _compressed(_weights(**_GROUPED, symmetric=False)),
    "ct-w8a16": _compressed(_weights(**_PER_OUTPUT)),
    "ct-w8a8-int8": _compressed("W8A8"),
    "ct-fp8-dynamic": _compressed("FP8_DYNAMIC"),
    "ct-fp8-static": _compressed("FP8"),
    "ct-fp8-kv": _compressed("FP8_DYNAMIC", kv_cache_scheme=_KV),
    "torchao-int8": Recipe(partial(_torchao, kind="Int8WeightOnlyConfig"), transformers_model),
    "torchao-fp8": Recipe(partial(_torchao, kind="Float8WeightOnlyConfig"), transformers_model),
    "gguf-q4_0": _gguf(gguf_files.write_blocks, "Q4_0"),
    "gguf-q4_1": _gguf(gguf_files.write_blocks, "Q4_1"),
    "gguf-q5_1": _gguf(gguf_files.write_blocks, "Q5_1"),
    "gguf-q8_0": _gguf(gguf_files.write_blocks, "Q8_0"),
    "gguf-q4_k_m": _gguf(gguf_files.write_mixture, "Q4_K_M"),
    "gguf-q6_k": _gguf(gguf_files.write_mixture, "Q6_K"),
}
