"""A checkpoint's weights as float32 numpy arrays, for devices that do not run torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inferplane.checkpoint.files import Checkpoint, TensorInfo
from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.checkpoint.gguf_names import NEIGHBOURS, NORM_OFFSETS, hugging_face_name
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import Array

__all__ = ["iterate_arrays"]

_PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_ROTATED = (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads"))
_SKIPPED = ("rope_freqs.weight",)
"""Read with the configuration."""


def iterate_arrays(checkpoint: Checkpoint) -> Iterator[tuple[str, Array]]:
    """(Hugging Face name, f32 array) of every tensor, in file order; GGUF blocks dequantised.

    Raises ModelError for a type that stands for no numbers by itself, ConfigError when the package
    that reads GGUF blocks is not installed.
    """
    if checkpoint.format == "none":
        raise ModelError(f"{checkpoint.root}: holds no weights (no *.safetensors, no .gguf)")
    architecture = checkpoint.metadata.get("general.architecture")
    for info in sorted(checkpoint.tensors.values(), key=lambda t: (t.file, t.offset)):
        if checkpoint.format != "gguf":
            yield info.name, _safetensor(info)
        elif info.name not in _SKIPPED:
            name = hugging_face_name(info.name, architecture)
            yield name, _restored(name, _gguf_tensor(info), checkpoint)


def _safetensor(info: TensorInfo) -> Array:
    kind = {**_PLAIN, "BF16": "<u2"}.get(info.dtype)
    if kind is None:
        raise ModelError(f"{info.file}: tensor {info.name!r}: {info.dtype} is not float32 to be")
    raw = np.fromfile(info.file, kind, int(np.prod(info.shape)), offset=info.offset)
    return _float32(raw, info)


def _gguf_tensor(info: TensorInfo) -> Array:
    block, block_bytes = GGML_BLOCKS[info.dtype]
    count = int(np.prod(info.shape))
    if info.dtype in _PLAIN:
        return _float32(np.fromfile(info.file, _PLAIN[info.dtype], count, offset=info.offset), info)
    try:  # an optional package, and a quarter of a second
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        raise ConfigError("reading GGUF blocks needs the package gguf: pip install gguf") from None
    rows = count // info.shape[-1]
    raw = np.fromfile(info.file, np.uint8, count // block * block_bytes, offset=info.offset)
    try:
        values = dequantize(raw.reshape(rows, -1), GGMLQuantizationType[info.dtype])
    except NotImplementedError:
        raise ModelError(
            f"{info.file}: tensor {info.name!r}: ggml type {info.dtype} cannot be read"
        ) from None
    return np.asarray(values, np.float32).reshape(info.shape)


def _float32(raw: Array, info: TensorInfo) -> Array:
    if info.dtype == "BF16":
        raw = (raw.astype("<u4") << 16).view("<f4")
    return np.asarray(raw.astype(np.float32, copy=False).reshape(info.shape))


def _restored(name: str, values: Array, checkpoint: Checkpoint) -> Array:
    """The tensor as Hugging Face has it."""
    architecture = str(checkpoint.metadata.get("general.architecture"))
    offset = NORM_OFFSETS.get(architecture, 0.0)
    if offset and name.endswith("norm.weight"):
        return np.asarray(values - np.float32(offset))
    for which, key in _ROTATED if architecture in NEIGHBOURS else ():
        if f".{which}." in name:
            heads = checkpoint.config[key]
            assert isinstance(heads, int)
            pairs = values.reshape(heads, len(values) // heads // 2, 2, *values.shape[1:])
            return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
    return values
