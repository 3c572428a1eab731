"""Tensors of safetensors files as views of the mapped file: nothing is read before it is copied."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from inferplane.checkpoint import TensorInfo
from inferplane.errors import ModelError

__all__ = ["iterate_safetensors"]

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}


def iterate_safetensors(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) in the order of the files' bytes. Raises ModelError."""
    in_order = sorted(tensors.values(), key=lambda t: (t.file, t.offset))
    for file, held in groupby(in_order, key=lambda t: t.file):
        yield from _read_file(file, list(held))


def _read_file(file: Path, tensors: list[TensorInfo]) -> Iterator[tuple[str, Tensor]]:
    with file.open("rb") as opened:
        # A private mapping is writable without touching the file; torch warns about others.
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    for tensor in tensors:
        if tensor.offset + tensor.num_bytes > len(data):
            raise ModelError(f"{file}: became shorter since its header was read")
        yield tensor.name, _view(data, tensor)
        _release(data, tensor)


def _release(data: mmap.mmap, tensor: TensorInfo) -> None:
    """Give back the memory of a tensor that has been read; who still looks reads the file again."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = -(-tensor.offset // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (tensor.offset + tensor.num_bytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if whole > 0:
        data.madvise(mmap.MADV_DONTNEED, start, whole)


def _view(data: mmap.mmap, tensor: TensorInfo) -> Tensor:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ModelError(
            f"{tensor.file}: tensor {tensor.name!r}: dtype {tensor.dtype} is not served"
        )
    if tensor.num_bytes == 0:
        return torch.empty(tensor.shape, dtype=dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8, count=tensor.num_bytes, offset=tensor.offset)
    if tensor.offset % dtype.itemsize:
        raw = raw.clone()  # a view of another type must be aligned
    return raw.view(dtype).view(tensor.shape)
