"""Weights in the panel layout of the C++ kernels, one type a class of precision.

O output features, I input features.
"""

from __future__ import annotations

from ctypes import CDLL
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.errors import UnsupportedError
from inferplane_cpu.native.library import Kind

__all__ = ["PackedWeight", "pack_dense", "pack_int4", "pack_int8"]

GUARD_BYTES = 8192
"""Behind each weight, so that prefetching past the end stays inside the allocation."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """One matrix as the kernels read it; `scale` f32[O] only for INT8."""

    kind: Kind
    out_features: int
    in_features: int
    data: Tensor
    """uint8, 64-byte aligned"""
    scale: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes one pass over the weight reads."""
        return self.data.numel() - GUARD_BYTES


def _reserve(library: CDLL, kind: Kind, rows: int, columns: int) -> Tensor:
    if columns % 32:
        raise UnsupportedError(f"in_features {columns}: the kernels need a multiple of 32")
    return torch.zeros(
        library.ip_packed_bytes(kind, rows, columns) + GUARD_BYTES, dtype=torch.uint8
    )


def pack_dense(library: CDLL, weight: Tensor) -> PackedWeight:
    """weight[O,I] in float32 or bfloat16, kept in that type.

    Raises UnsupportedError for another dtype or I not a multiple of 32.
    """
    rows, columns = weight.shape
    weight = weight.contiguous()
    if weight.dtype == torch.float32:
        data = _reserve(library, Kind.F32, rows, columns)
        library.ip_pack_f32(weight.data_ptr(), rows, columns, data.data_ptr())
        return PackedWeight(Kind.F32, rows, columns, data)
    if weight.dtype == torch.bfloat16:
        data = _reserve(library, Kind.BF16, rows, columns)
        library.ip_pack_bf16(weight.data_ptr(), rows, columns, data.data_ptr())
        return PackedWeight(Kind.BF16, rows, columns, data)
    raise UnsupportedError(f"weights in {weight.dtype}: the kernels take float32 and bfloat16")


def pack_int8(library: CDLL, values: Tensor, scales: Tensor) -> PackedWeight:
    """values int8[O,I] with scales f32[O,1] (per output) or f32[O,I/32] (groups of 32)."""
    rows, columns = values.shape
    values, scales = values.contiguous(), scales.float().contiguous()
    if scales.shape == (rows, 1):
        data = _reserve(library, Kind.INT8, rows, columns)
        library.ip_pack_int8(values.data_ptr(), rows, columns, data.data_ptr())
        return PackedWeight(Kind.INT8, rows, columns, data, scales.flatten())
    if scales.shape != (rows, columns // 32):
        raise UnsupportedError(f"int8 scales {tuple(scales.shape)} for {tuple(values.shape)}")
    data = _reserve(library, Kind.INT8_G32, rows, columns)
    library.ip_pack_int8_g32(values.data_ptr(), scales.data_ptr(), rows, columns, data.data_ptr())
    return PackedWeight(Kind.INT8_G32, rows, columns, data)


def pack_int4(
    library: CDLL, values: Tensor, scales: Tensor, offsets: Tensor | None, low: int
) -> PackedWeight:
    """values int8[O,I] in low..low+15; scales, offsets f32[O,I/32]: w = values*scales+offsets."""
    rows, columns = values.shape
    values, scales = values.contiguous(), scales.float().contiguous()
    if scales.shape != (rows, columns // 32):
        raise UnsupportedError(f"int4 scales {tuple(scales.shape)} for {tuple(values.shape)}")
    offsets = None if offsets is None else offsets.float().contiguous()
    data = _reserve(library, Kind.INT4_G32, rows, columns)
    library.ip_pack_int4_g32(
        values.data_ptr(),
        scales.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        low,
        rows,
        columns,
        data.data_ptr(),
    )
    return PackedWeight(Kind.INT4_G32, rows, columns, data)
