"""e4m3fn (OCP) to e4m3fnuz (gfx942): the same bits mean half the number, two codes differ."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FNUZ_SCALE", "to_fnuz"]

FNUZ_SCALE = 2.0
"""What scales are multiplied with after `to_fnuz`."""
_MINUS_ZERO = 0x80


def to_fnuz(codes: Tensor) -> Tensor:
    """e4m3fn of any shape -> e4m3fnuz of half the value, exact for every code.

    Minus zero becomes zero, since its byte is NaN there; NaN (0x7F, 0xFF) becomes that byte, since
    its own would be 240.
    """
    bits = codes.view(torch.uint8)
    is_nan = (bits & 0x7F) == 0x7F
    bits = torch.where(bits == _MINUS_ZERO, torch.zeros_like(bits), bits)
    return torch.where(is_nan, torch.full_like(bits, _MINUS_ZERO), bits).view(torch.float8_e4m3fnuz)
