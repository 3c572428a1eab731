"""What ggml's blocks hold, as integers with a scale (and a minimum) for each group of elements.

Layouts: ggml/src/ggml-quants.c. Every function takes blocks u8[N, bytes] and knows one type; the
types whose codes index a grid of points are left to the gguf package. N blocks, E elements of a
block, G groups of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BLOCK_SHAPES", "BlockShape", "Blocks", "read_blocks"]


class Blocks(NamedTuple):
    """w = codes * scales + mins."""

    codes: Tensor
    """i8[N,E]"""
    scales: Tensor
    """f32[N,G]"""
    mins: Tensor | None = None
    """f32[N,G]"""


class BlockShape(NamedTuple):
    """How one type divides its elements."""

    group: int
    """Elements sharing a scale."""
    bits: int
    """4 where codes fit -8..7, possibly after subtracting 8; else 8."""
    has_mins: bool


def read_blocks(kind: str, raw: Tensor) -> Blocks:
    """The content of blocks u8[N, bytes] of one of BLOCK_SHAPES."""
    return _READERS[kind](raw)


def _half(raw: Tensor, at: int) -> Tensor:
    """f32[N,1] of the half-precision number at byte `at`."""
    return raw[:, at : at + 2].contiguous().view(torch.float16).float()


def _fields(raw: Tensor, bits: int, run: int) -> Tensor:
    """Bit fields u8[N,E]: each run of `run` bytes gives its low fields, then the next, …"""
    runs = raw.reshape(raw.shape[0], -1, run)
    shifts = range(0, 8, bits)
    parts = [torch.bitwise_and(runs >> shift, 2**bits - 1) for shift in shifts]
    return torch.stack(parts, 2).flatten(1)


def _signed(codes: Tensor, centre: int) -> Tensor:
    return codes.view(torch.int8) - centre


def _q4_0(raw: Tensor) -> Blocks:
    return Blocks(_signed(_fields(raw[:, 2:], 4, 16), 8), _half(raw, 0))


def _q4_1(raw: Tensor) -> Blocks:
    return Blocks(_signed(_fields(raw[:, 4:], 4, 16), 0), _half(raw, 0), _half(raw, 2))


def _q5(raw: Tensor, at: int) -> Tensor:
    """u8[N,32]: 32 fifth bits at byte `at`, then 16 bytes of four bits."""
    high = _fields(raw[:, at : at + 4], 1, 1)
    return _fields(raw[:, at + 4 :], 4, 16) | (high << 4)


def _q5_0(raw: Tensor) -> Blocks:
    return Blocks(_signed(_q5(raw, 2), 16), _half(raw, 0))


def _q5_1(raw: Tensor) -> Blocks:
    return Blocks(_signed(_q5(raw, 4), 0), _half(raw, 0), _half(raw, 2))


def _q8_0(raw: Tensor) -> Blocks:
    return Blocks(raw[:, 2:].contiguous().view(torch.int8), _half(raw, 0))


def _q2_k(raw: Tensor) -> Blocks:
    packed = raw[:, :16]
    scales = _half(raw, 80) * torch.bitwise_and(packed, 15).float()
    mins = _half(raw, 82) * (packed >> 4).float()
    return Blocks(_signed(_fields(raw[:, 16:80], 2, 32), 0), scales, -mins)


def _q3_k(raw: Tensor) -> Blocks:
    low, high = _fields(raw[:, 96:104], 4, 8), _fields(raw[:, 104:108], 2, 4)
    scales = _half(raw, 108) * (_signed(low | (high << 4), 32)).float()
    top = _fields(raw[:, :32], 1, 32)
    codes = _signed(_fields(raw[:, 32:96], 2, 32) | (top << 2), 4)
    return Blocks(codes, scales)


def _k_scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(scales f32[N,8], mins f32[N,8]) of the types with twelve bytes of six-bit numbers."""
    packed = raw[:, 4:16].view(-1, 3, 4)
    first, second, third = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = (first & 63, (third & 15) | ((first >> 2) & 48))
    mins = (second & 63, (third >> 4) | ((second >> 2) & 48))
    wide_scales = _half(raw, 0) * torch.cat(scales, 1).float()
    return wide_scales, -(_half(raw, 2) * torch.cat(mins, 1).float())


def _q4_k(raw: Tensor) -> Blocks:
    return Blocks(_signed(_fields(raw[:, 16:], 4, 32), 0), *_k_scales(raw))


def _q5_k(raw: Tensor) -> Blocks:
    high = _fields(raw[:, 16:48], 1, 32)
    codes = _fields(raw[:, 48:], 4, 32) | (high << 4)
    return Blocks(_signed(codes, 0), *_k_scales(raw))


def _q6_k(raw: Tensor) -> Blocks:
    low, high = _fields(raw[:, :128], 4, 64), _fields(raw[:, 128:192], 2, 32)
    scales = _half(raw, 208) * raw[:, 192:208].contiguous().view(torch.int8).float()
    return Blocks(_signed(low | (high << 4), 32), scales)


def _levels(codes: Tensor) -> Tensor:
    """The sixteen uneven levels of the non-linear four-bit types."""
    table = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
    return torch.tensor(table, dtype=torch.int8, device=codes.device)[codes.int()]


def _iq4_nl(raw: Tensor) -> Blocks:
    return Blocks(_levels(_fields(raw[:, 2:], 4, 16)), _half(raw, 0))


def _iq4_xs(raw: Tensor) -> Blocks:
    high = _fields(raw[:, 2:4], 2, 1)
    low = _fields(raw[:, 4:8], 4, 1)
    scales = _half(raw, 0) * _signed(low | (high << 4), 32).float()
    return Blocks(_levels(_fields(raw[:, 8:], 4, 16)), scales)


_TYPES: dict[str, tuple[BlockShape, Callable[[Tensor], Blocks]]] = {
    "Q4_0": (BlockShape(32, 4, False), _q4_0),
    "Q4_1": (BlockShape(32, 4, True), _q4_1),
    "Q5_0": (BlockShape(32, 8, False), _q5_0),
    "Q5_1": (BlockShape(32, 8, True), _q5_1),
    "Q8_0": (BlockShape(32, 8, False), _q8_0),
    "Q2_K": (BlockShape(16, 4, True), _q2_k),
    "Q3_K": (BlockShape(16, 4, False), _q3_k),
    "Q4_K": (BlockShape(32, 4, True), _q4_k),
    "Q5_K": (BlockShape(32, 8, True), _q5_k),
    "Q6_K": (BlockShape(16, 8, False), _q6_k),
    "IQ4_NL": (BlockShape(32, 8, False), _iq4_nl),
    "IQ4_XS": (BlockShape(32, 8, False), _iq4_xs),
}
_READERS = {kind: reader for kind, (_, reader) in _TYPES.items()}
BLOCK_SHAPES = {kind: shape for kind, (shape, _) in _TYPES.items()}
"""The types that are integers times scales."""
