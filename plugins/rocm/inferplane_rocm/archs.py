"""What AMD's generations differ in; names are those of the compiler (gfx942)."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["fp8_flavour", "has_bfloat16_matrices", "is_served"]

_SERVED = re.compile(r"gfx(90a|942|950|110\d|115\d|120\d)")
_MATRIX_BF16 = re.compile(r"gfx(90a|94|95|11|12)")


def is_served(arch: str) -> bool:
    """Whether the kernels compile for it: data centre from gfx90a, desktop from gfx11."""
    return _SERVED.fullmatch(arch) is not None


def has_bfloat16_matrices(arch: str) -> bool:
    """Whether matrix instructions take bfloat16."""
    return _MATRIX_BF16.match(arch) is not None


def fp8_flavour(arch: str) -> Literal["none", "e4m3fn", "e4m3fnuz"]:
    """Which numbers its matrix instructions read in an 8-bit byte.

    gfx942 reads e4m3fnuz: the same bits mean half of what they mean in e4m3fn, and 0x80 is NaN.
    """
    if arch == "gfx942":
        return "e4m3fnuz"
    return "e4m3fn" if arch == "gfx950" or arch.startswith("gfx12") else "none"
