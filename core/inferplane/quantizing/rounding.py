"""Round a checkpoint's linear layers to fewer bits, tensor by tensor, into a new folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from inferplane.checkpoint import Checkpoint
from inferplane.errors import ConfigError
from inferplane.loading import iterate_weights
from inferplane.loading.gguf import hugging_face_names
from inferplane.quantization.writing import compressed_config, compressed_layer
from inferplane.quantizing.description import write_description
from inferplane.quantizing.shards import ShardWriter

__all__ = ["Progress", "check_source", "copy_dense", "linear_inputs", "write_rounded"]

Progress: TypeAlias = Callable[[int, int, str], None]
"""Tensors done, tensors in all, the name of the last."""
_KEPT = ("embed_tokens", "lm_head", "gate", "score", "embed_positions")
"""Last parts of the names of matrices that are looked up, route or rank: a rounded router sends
tokens elsewhere, and a rounded output layer costs the most quality for its size."""
_TRANSPOSED = ("gpt2",)
"""Model types that store their linear layers [inputs, outputs]."""


def check_source(checkpoint: Checkpoint) -> None:
    """Raises ConfigError for what cannot be quantised from these files."""
    if checkpoint.format == "none":
        raise ConfigError(f"{checkpoint.root} holds no weights to quantise")
    held = checkpoint.config.get("quantization_config")
    if held and checkpoint.format != "gguf":
        method = held.get("quant_method") if isinstance(held, dict) else held
        raise ConfigError(
            f"{checkpoint.root} is quantised already ({method}): quantise the original in float32, "
            "bfloat16 or float16"
        )
    kind = checkpoint.config.get("model_type")
    if kind in _TRANSPOSED:
        raise ConfigError(
            f"{checkpoint.root}: model type {kind} stores its layers transposed, which "
            "compressed-tensors has no word for; serve it with --quantization instead"
        )


def write_rounded(checkpoint: Checkpoint, folder: Path, method: str, progress: Progress) -> int:
    """Write the checkpoint with every linear layer as compressed-tensors `method`; bytes written.

    One tensor and one output file lie in memory at a time. Raises ModelError naming the tensor.
    """
    kept: list[str] = []
    with ShardWriter(folder) as writer:
        for name, tensor in _reported(checkpoint, progress):
            layer = name.removesuffix(".weight")
            if _is_linear(name, tensor.shape):
                for part, stored in compressed_layer(layer, tensor, method).items():
                    writer.add(part, stored)
                continue
            if tensor.ndim == 2:
                kept.append(layer)
            writer.add(name, tensor)
    if checkpoint.config.get("tie_word_embeddings", False):
        kept.append("lm_head")
    changes = {"quantization_config": compressed_config(method, sorted(set(kept)))}
    write_description(checkpoint, folder, changes, _dtype_name(checkpoint))
    return writer.num_bytes


def copy_dense(checkpoint: Checkpoint, folder: Path, progress: Progress) -> None:
    """Write the checkpoint in high precision, for a library that reads nothing else."""
    with ShardWriter(folder) as writer:
        for name, tensor in _reported(checkpoint, progress):
            writer.add(name, tensor)
    write_description(checkpoint, folder, {}, _dtype_name(checkpoint))


def linear_inputs(checkpoint: Checkpoint) -> list[int]:
    """The input sizes of the layers that would be rounded."""
    names = {info.name: info.shape for info in checkpoint.tensors.values()}
    if checkpoint.format == "gguf":
        names = {stored: names[name] for name, stored in hugging_face_names(checkpoint).items()}
    return [shape[1] for name, shape in names.items() if _is_linear(name, shape)]


def _is_linear(name: str, shape: Sequence[int]) -> bool:
    parts = name.split(".")
    return len(shape) == 2 and parts[-1] == "weight" and parts[-2] not in _KEPT


def _reported(checkpoint: Checkpoint, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    stream = iterate_weights(checkpoint, _dtype(checkpoint))
    for done, (name, tensor) in enumerate(stream):
        progress(done, len(stream), name)
        is_dense = tensor.is_floating_point() and checkpoint.format == "gguf"
        yield name, tensor.to(_dtype(checkpoint)) if is_dense else tensor
    progress(len(stream), len(stream), "")


def _dtype_name(checkpoint: Checkpoint) -> str:
    named = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    known = ("float32", "float16", "bfloat16")
    return named if isinstance(named, str) and named in known else "bfloat16"


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    found = getattr(torch, _dtype_name(checkpoint))
    assert isinstance(found, torch.dtype)
    return found
