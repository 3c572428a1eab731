"""e4m3fn codes for a device that reads the highest exponent as no number: 240 is its largest.

O outputs, I inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LARGEST", "to_range240"]

LARGEST = 240.0


def to_range240(values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """(codes [O,I], scales f32 [O,1]) that stand for the same numbers, none beyond 240.

    values e4m3fn [O,I], scales f32 [O,1]. Rows that stay within the range are left alone; the codes
    of others are halved and their scales doubled, which is exact but for subnormal codes: of those
    the odd ones lose their last bit, 2^-10 of the new scale at most. Codes that are no numbers stay
    so.
    """
    wide = values.float()
    halved = wide.abs().amax(-1, keepdim=True) > LARGEST
    codes = torch.where(halved, wide * 0.5, wide).to(values.dtype)
    return codes, torch.where(halved, scales * 2.0, scales)
