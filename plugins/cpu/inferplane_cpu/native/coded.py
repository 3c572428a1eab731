"""Panels of 8-bit codes, as the core's cache in 8 bits stores them, with a scale a token and head.

B blocks, S block size, K KV heads, H head size, N slots. A block and head holds the codes of a
panel of bfloat16 (`native.panels`), a byte each, then S scales in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.execution.quantized_kv import QuantizedRows, row_bytes
from inferplane.interfaces import LayerKV
from inferplane_cpu.native.library import Cache, Kind
from inferplane_cpu.native.panels import PanelKV

__all__ = ["CodedPanelKV"]

_KINDS = {"int8": Kind.INT8, "fp8": Kind.FP8}


@dataclass(frozen=True, slots=True, eq=False)
class CodedPanelKV:
    """The handle of one layer."""

    codes: PanelKV
    """i8; what lies between the blocks of a head are their scales."""
    key_scales: Tensor
    """bf16[B,K,S]"""
    value_scales: Tensor
    """bf16[B,K,S]"""
    kind: str
    k_largest: tuple[float, ...] = ()
    """Calibrated magnitude of each head's keys; none: each token's own counts."""
    v_largest: tuple[float, ...] = ()
    static: tuple[Tensor | None, Tensor | None] = (None, None)
    """f32[K] of keys and of values: their scales where they are calibrated."""

    @classmethod
    def over(cls, layer: LayerKV, k: Tensor, v: Tensor, block_size: int) -> CodedPanelKV:
        """A view of u8 bytes in whole blocks."""
        keys, key_scales = _split(k, layer.num_kv_heads, block_size, layer.head_dim)
        values, value_scales = _split(v, layer.num_kv_heads, block_size, layer.head_dim_v)
        largest = (tuple(layer.k_largest), tuple(layer.v_largest))
        made = (_rows(1, layer.num_kv_heads, 16, layer.dtype, each).static for each in largest)
        static = [None if scales is None else scales.float() for scales in made]
        sizes = (block_size, layer.num_kv_heads, layer.head_dim, layer.head_dim_v)
        codes = PanelKV(keys, values, *sizes)
        both = (static[0], static[1])
        return cls(codes, key_scales, value_scales, layer.dtype, *largest, both)

    def structure(self) -> Cache:
        """What the kernels read; valid while the tensors live."""
        cache = self.codes.structure()
        cache.kind = int(_KINDS[self.kind])
        cache.key_scales, cache.value_scales = (
            None if scales is None else scales.data_ptr() for scales in self.static
        )
        return cache

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k[N,K,H] and v[N,K,Hv] at `slots` i32[N] or i64[N], as the core rounds them."""
        codes = []
        for scales, largest, new in (
            (self.key_scales, self.k_largest, k),
            (self.value_scales, self.v_largest, v),
        ):
            tokens, heads, dim = new.shape
            rows = _rows(tokens, heads, dim, self.kind, largest)
            rows.write(torch.arange(tokens), new)
            codes.append(rows.codes[0])
            scales[self._places(slots)] = rows.scales[0]
        self.codes.write(slots, *codes)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys f32[N,K,H] and values f32[N,K,Hv] at `slots`."""
        at, wide = self._places(slots), []
        for codes, scales in zip(
            self.codes.read(slots), (self.key_scales, self.value_scales), strict=True
        ):
            rows = QuantizedRows.beside(codes[None], scales[at][None], self.kind)
            wide.append(rows.read(torch.arange(len(slots))))
        return wide[0], wide[1]

    def _places(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index of (block, head, token)."""
        slots, size = slots.long(), self.codes.block_size
        heads = torch.arange(self.codes.kv_heads)[None]
        return slots[:, None] // size, heads, slots[:, None] % size


def _split(buffer: Tensor, heads: int, block_size: int, dim: int) -> tuple[Tensor, Tensor]:
    """(codes i8[B,K,S*H], scales bf16[B,K,S])."""
    blocks = buffer.view(-1, heads, block_size * row_bytes(dim))
    return (
        blocks[..., : block_size * dim].view(torch.int8),
        blocks[..., block_size * dim :].view(torch.bfloat16),
    )


def _rows(tokens: int, heads: int, dim: int, kind: str, largest: Sequence[float]) -> QuantizedRows:
    """Room for that many tokens, apart from any cache."""
    codes = torch.zeros(1, tokens, heads, dim, dtype=torch.int8)
    scales = torch.zeros(1, tokens, heads, dtype=torch.bfloat16)
    return QuantizedRows.beside(codes, scales, kind, largest)
