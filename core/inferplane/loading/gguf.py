"""Tensors of GGUF files: blocks dequantised, names and row order as Hugging Face has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from inferplane.checkpoint import Checkpoint, TensorInfo
from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.errors import ModelError

__all__ = ["dequantize_tensor", "hugging_face_names", "iterate_gguf"]

_PIECE_ELEMENTS = 2**20
"""Elements dequantised at once: their temporaries stay in the processor's cache."""

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_LAYER = _LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_SKIPPED = ("rope_freqs.weight",)
"""Read with the configuration."""
_PLAIN = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How one architecture's GGUF differs from Hugging Face's files."""

    layer: dict[str, str] = field(default_factory=lambda: _LAYER)
    rotates_neighbours: bool = False
    """Query and key rows were reordered for rotation of neighbouring elements."""
    norm_offset: float = 0.0
    """Was added to every norm weight."""


_DIALECTS = {
    "llama": _Dialect(rotates_neighbours=True),
    "gemma3": _Dialect(_GEMMA_LAYER, norm_offset=1.0),
}


def iterate_gguf(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, tensor of `dtype`) of every tensor. Raises ModelError."""
    dialect = _dialect(checkpoint)
    names = hugging_face_names(checkpoint)
    for tensor in sorted(checkpoint.tensors.values(), key=lambda t: (t.file, t.offset)):
        if tensor.name not in _SKIPPED:
            name = names[tensor.name]
            yield name, _restored(name, dequantize_tensor(tensor, dtype), checkpoint, dialect)


def hugging_face_names(checkpoint: Checkpoint) -> dict[str, str]:
    """GGUF name -> Hugging Face name; unknown ones stay, for the model to refuse them."""
    layer = _dialect(checkpoint).layer
    found: dict[str, str] = {}
    for name in checkpoint.tensors:
        match = _BLOCK.fullmatch(name)
        stem, _, end = name.rpartition(".")
        if match and match[2] in layer:
            found[name] = f"model.layers.{match[1]}.{layer[match[2]]}.{match[3]}"
        elif stem in _TOP:
            found[name] = f"{_TOP[stem]}.{end}"
        else:
            found[name] = name
    return found


def dequantize_tensor(tensor: TensorInfo, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers of one tensor of any ggml type. Raises ModelError for types nobody can read."""
    block, block_bytes = GGML_BLOCKS[tensor.dtype]
    rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
    row_bytes = tensor.shape[-1] // block * block_bytes
    raw = np.memmap(
        tensor.file, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(rows, row_bytes)
    )
    out = torch.empty(rows, tensor.shape[-1], dtype=dtype)
    step = max(1, _PIECE_ELEMENTS // tensor.shape[-1])
    read = _reader(tensor)
    for row in range(0, rows, step):
        out[row : row + step] = torch.from_numpy(read(raw[row : row + step]))
    return out.view(tensor.shape)


def _reader(tensor: TensorInfo) -> Callable[[Any], Any]:
    plain = _PLAIN.get(tensor.dtype)
    if plain is not None:
        return lambda rows: np.array(rows).view(plain)
    kind = GGMLQuantizationType[tensor.dtype]

    def read(rows: Any) -> Any:
        try:
            return dequantize(rows, kind)
        except NotImplementedError:
            raise ModelError(
                f"{tensor.file}: tensor {tensor.name!r}: ggml type {tensor.dtype} cannot be read"
            ) from None

    return read


def _dialect(checkpoint: Checkpoint) -> _Dialect:
    return _DIALECTS.get(str(checkpoint.metadata.get("general.architecture")), _Dialect())


def _restored(name: str, tensor: Tensor, checkpoint: Checkpoint, dialect: _Dialect) -> Tensor:
    """The tensor as Hugging Face has it."""
    if dialect.norm_offset and name.endswith("norm.weight"):
        return tensor.float() - dialect.norm_offset
    if dialect.rotates_neighbours:
        for which, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f".{which}." in name:
                return _halves(tensor, checkpoint.config[key])
    return tensor


def _halves(tensor: Tensor, num_heads: object) -> Tensor:
    """Rows of each head from (0, R, 1, R+1, …) back to (0, 1, …, R, R+1, …)."""
    assert isinstance(num_heads, int)
    if tensor.shape[0] % (2 * num_heads):
        return tensor  # misshapen: the model says so
    pairs = tensor.view(num_heads, tensor.shape[0] // num_heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
