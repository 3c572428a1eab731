"""What an instruction of `walk.cu` says, and what of it is fixed while compiling."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

__all__ = [
    "LEFT_NORMED",
    "LEFT_OUT",
    "LEFT_TOTAL",
    "NO_HEADS",
    "WORDS",
    "Before",
    "Heads",
    "Kind",
    "Matrix",
    "Mode",
    "Weights",
    "bits_of",
    "half_of",
    "words",
]

WORDS = 18
"""Of 8 bytes each, an instruction."""


class Mode(IntEnum):
    """Which two panels of a matrix come together."""

    BESIDE = 0
    """Of other outputs."""
    PAIRED = 1
    """Of a gate and of what it is multiplied with, which is half of the outputs further on."""
    BEHIND = 2
    """Of the inputs that follow."""


class Kind(IntEnum):
    """What an instruction does."""

    STREAM = 0
    """out[O] = weights[O,I] times x[I], after what comes before."""
    NORM_ALONE = 1
    """What comes before a matrix, and nothing after it."""
    ATTEND = 2
    """Rotation, the write to the cache, attention."""


class Before(IntEnum):
    """What happens to x on the way into a matrix."""

    NOTHING = 0
    NORM = 1
    """(x + residual) normalised by its root mean square."""
    SILU = 2
    """silu of x's first half times its second."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The kind of weights a launch multiplies; the names are the source's."""

    CODES: int
    INPUT: int
    HALF: int
    GROUP: int = 0
    OFFSET: int = 0
    GIVEN: int = 0

    @property
    def across(self) -> int:
        """Inputs of a panel."""
        return 2048 if self.CODES == 4 else 1024

    @property
    def summands(self) -> int:
        """Parts of an output that are added up at the end of a tile, on Hopper: where its matrix
        instructions take weights from on-chip memory, fewer than one of each warp."""
        if self.CODES == 16:
            return 8
        return 4 if self.CODES == 7 and self.INPUT == 1 else 16

    def slot_bytes(self) -> int:
        """On-chip memory of a slot: two panels of 16 outputs by `across` inputs, one if dense."""
        across = self.across
        if self.CODES == 16:
            return 32 * across
        packed = across * 8 if self.CODES == 4 else across * 16
        codes = packed if self.INPUT == 0 else 16 * across
        scales = across // self.GROUP * 128 if self.GROUP else 0
        return 2 * (codes + scales * (2 if self.OFFSET else 1))


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention a launch computes; the names are the source's."""

    KV_HEADS: int
    MEMBERS: int
    SIZE: int
    PAIRS: int
    PAGE: int
    SCALE: int
    EPS: int = 0
    HEAD_NORM: int = 0


NO_HEADS = Heads(1, 0, 64, 0, 16, 0)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix: scales and offsets f32 as its kind packs them, bias [O] in x's dtype."""

    weights: Weights
    codes: Tensor
    outputs: int
    inputs: int
    scales: Tensor | None = None
    offsets: Tensor | None = None
    bias: Tensor | None = None
    given: Tensor | None = None
    """The scale of x f32[1], where it is not its own."""


LEFT_OUT = (16, 0)
"""Word and bit of an instruction where the words are named that it leaves of its output."""
LEFT_NORMED = (17, 0)
"""The same of what comes before a matrix, for others who read it."""
LEFT_TOTAL = (17, 32)
"""The same of a sum with its residual."""


def words(
    kind: Kind, high: int, pointers: Sequence[Tensor | int | None], sizes: Sequence[int] = ()
) -> list[int]:
    """An instruction: its kind with 32 bits beside it, addresses, numbers; 0 = absent."""
    told = [0 if x is None else x if isinstance(x, int) else x.data_ptr() for x in pointers]
    row = [int(kind) | high << 32, *told, *sizes]
    return row + [0] * (WORDS - len(row))


def bits_of(number: float) -> int:
    """A float32's bits as a signed number, which a compiler takes as a definition."""
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def half_of(dtype: torch.dtype) -> int:
    """HALF of `Weights` for one of the two 16-bit types."""
    return int(dtype == torch.float16)
