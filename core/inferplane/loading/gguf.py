"""Tensors of GGUF files, under the names and in the row order that Hugging Face gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from inferplane.checkpoint import Checkpoint, TensorInfo
from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.checkpoint.gguf_names import NEIGHBOURS, NORM_OFFSETS, hugging_face_name
from inferplane.errors import ModelError
from inferplane.quantization.ggml_blocks import BLOCK_SHAPES, read_blocks

__all__ = ["dequantize_tensor", "hugging_face_names", "iterate_gguf"]

_PIECE_ELEMENTS = 2**20
"""Elements dequantised at once: their temporaries stay in the processor's cache."""
_SKIPPED = ("rope_freqs.weight",)
"""Read with the configuration."""
_NEVER_STORED = ("Q8_1", "Q8_K")
_PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}


def iterate_gguf(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, keep: Collection[str] = ()
) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, tensor) of every tensor: of `dtype`, or blocks u8[rows, bytes of a row]
    for the names in `keep`. Raises ModelError.
    """
    names = hugging_face_names(checkpoint)
    for tensor in sorted(checkpoint.tensors.values(), key=lambda t: (t.file, t.offset)):
        if tensor.name not in _SKIPPED:
            name = names[tensor.name]
            is_kept = name.replace("*", "0") in keep  # the experts of a stack are of one type
            held = _raw(tensor) if is_kept else dequantize_tensor(tensor, dtype)
            if "*" in name:
                held = held.view(tensor.shape[0], -1, held.shape[-1]) if is_kept else held
                for expert, matrix in enumerate(held):
                    yield name.replace("*", str(expert)), matrix
            else:
                yield name, _restored(name, held, checkpoint)


def hugging_face_names(checkpoint: Checkpoint) -> dict[str, str]:
    """GGUF name -> Hugging Face name."""
    architecture = checkpoint.metadata.get("general.architecture")
    return {name: hugging_face_name(name, architecture) for name in checkpoint.tensors}


def dequantize_tensor(tensor: TensorInfo, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers of one tensor of any ggml type. Raises ModelError for types nobody can read."""
    raw = _raw(tensor)
    plain = _PLAIN.get(tensor.dtype)
    if plain is not None:
        return _aligned(raw, tensor).view(plain).view(tensor.shape).to(dtype)
    width = tensor.shape[-1]
    out = torch.empty(raw.shape[0], width, dtype=dtype)
    step = max(1, _PIECE_ELEMENTS // width)
    read = _reader(tensor)
    for row in range(0, raw.shape[0], step):
        out[row : row + step] = read(raw[row : row + step]).view(-1, width)
    return out.view(tensor.shape)


def _raw(tensor: TensorInfo) -> Tensor:
    """u8[rows, bytes of a row], a view of the file."""
    block, block_bytes = GGML_BLOCKS[tensor.dtype]
    row_bytes = tensor.shape[-1] // block * block_bytes
    # mode "c": writable without touching the file, which torch asks of a view
    mapped = np.memmap(tensor.file, np.uint8, "c", tensor.offset, tensor.num_bytes)
    return torch.from_numpy(mapped.view(np.ndarray)).view(-1, row_bytes)


def _aligned(raw: Tensor, tensor: TensorInfo) -> Tensor:
    """A view of another type must begin at a multiple of its size."""
    return raw if tensor.offset % 8 == 0 else raw.clone()


def _reader(tensor: TensorInfo) -> Callable[[Tensor], Tensor]:
    """u8[rows, bytes] -> f32 elements."""
    if tensor.dtype in BLOCK_SHAPES:
        return lambda raw: _block_values(tensor.dtype, raw)
    if tensor.dtype in _NEVER_STORED:
        raise ModelError(
            f"{tensor.file}: tensor {tensor.name!r}: ggml type {tensor.dtype} cannot be read: it "
            "exists inside computations only"
        )
    # The package costs a quarter of a second, which common types need not pay.
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[tensor.dtype]
    return lambda raw: torch.from_numpy(dequantize(raw.numpy(), kind))


def _block_values(kind: str, raw: Tensor) -> Tensor:
    elements, block_bytes = GGML_BLOCKS[kind]
    codes, scales, mins = read_blocks(kind, raw.reshape(-1, block_bytes))
    groups = scales.shape[1]
    wide = codes.view(-1, groups, elements // groups).float()
    wide.mul_(scales[..., None])
    return wide if mins is None else wide.add_(mins[..., None])


def _restored(name: str, tensor: Tensor, checkpoint: Checkpoint) -> Tensor:
    """The tensor as Hugging Face has it."""
    architecture = str(checkpoint.metadata.get("general.architecture"))
    offset = NORM_OFFSETS.get(architecture, 0.0)
    if offset and name.endswith("norm.weight"):
        return tensor.float() - offset
    if architecture in NEIGHBOURS:
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
