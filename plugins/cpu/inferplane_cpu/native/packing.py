"""Weights in the panel layout of the C++ kernels, one type a class of precision.

O output features, I input features.
"""

from __future__ import annotations

from ctypes import CDLL
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.errors import UnsupportedError
from inferplane_cpu.native.arena import WeightArena
from inferplane_cpu.native.library import Kind

__all__ = ["PackedWeight", "Packer"]

_GROUP = 32


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """One matrix as the kernels read it; `scale` f32[O] only for INT8."""

    kind: Kind
    out_features: int
    in_features: int
    data: Tensor
    """uint8, 64-byte aligned; one pass over the weight reads all of it."""
    scale: Tensor | None = None


class Packer:
    """Packs the weights of one model, in the order in which a step reads them."""

    def __init__(self, library: CDLL) -> None:
        self._library = library
        self._arena = WeightArena()

    def dense(self, weight: Tensor) -> PackedWeight:
        """weight[O,I] in float32 or bfloat16, kept in that type.

        Raises UnsupportedError for another dtype or I not a multiple of 32.
        """
        weight = weight.contiguous()
        if weight.dtype == torch.float32:
            packed, pack = self._reserve(Kind.F32, weight), self._library.ip_pack_f32
        elif weight.dtype == torch.bfloat16:
            packed, pack = self._reserve(Kind.BF16, weight), self._library.ip_pack_bf16
        else:
            raise UnsupportedError(
                f"weights in {weight.dtype}: the kernels take float32 and bfloat16"
            )
        pack(weight.data_ptr(), *weight.shape, packed.data.data_ptr())
        return packed

    def int8(self, values: Tensor, scales: Tensor, grouped: bool = False) -> PackedWeight:
        """values int8[O,I] with scales f32[O,1], or f32[O,I/g] in groups of g = 32 or 16.

        `grouped` tells the two apart where there is one group only.
        """
        rows, columns = values.shape
        values, scales = values.contiguous(), scales.float().contiguous()
        if scales.shape == (rows, 1) and not grouped:
            packed = self._reserve(Kind.INT8, values, scales.flatten())
            self._library.ip_pack_int8(values.data_ptr(), rows, columns, packed.data.data_ptr())
            return packed
        group = 16 if scales.shape == (rows, columns // 16) else 32
        _check_groups(values, scales, group)
        packed = self._reserve(Kind.INT8_G16 if group == 16 else Kind.INT8_G32, values)
        self._library.ip_pack_int8_groups(
            values.data_ptr(), scales.data_ptr(), group, rows, columns, packed.data.data_ptr()
        )
        return packed

    def int4(
        self, values: Tensor, scales: Tensor, offsets: Tensor | None, low: int
    ) -> PackedWeight:
        """values int8[O,I] in low..low+15, w = values*scales + offsets, both f32[O,I/32]."""
        values, scales = values.contiguous(), scales.float().contiguous()
        _check_groups(values, scales)
        offsets = None if offsets is None else offsets.float().contiguous()
        packed = self._reserve(Kind.INT4_G32, values)
        self._library.ip_pack_int4_g32(
            values.data_ptr(),
            scales.data_ptr(),
            None if offsets is None else offsets.data_ptr(),
            low,
            *values.shape,
            packed.data.data_ptr(),
        )
        return packed

    def _reserve(self, kind: Kind, weight: Tensor, scale: Tensor | None = None) -> PackedWeight:
        rows, columns = weight.shape
        if columns % 32:
            raise UnsupportedError(f"in_features {columns}: the kernels need a multiple of 32")
        data = self._arena.take(self._library.ip_packed_bytes(kind, rows, columns))
        return PackedWeight(kind, rows, columns, data, scale)


def _check_groups(values: Tensor, scales: Tensor, group: int = _GROUP) -> None:
    rows, columns = values.shape
    if scales.shape != (rows, columns // group):
        raise UnsupportedError(
            f"scales {tuple(scales.shape)} for weights {tuple(values.shape)}: the kernels need "
            f"one for each {group} inputs"
        )
