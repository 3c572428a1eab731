"""RMS norms in few torch calls: f32 inside, rounded once. H normalised size."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_rms_norm", "rms_norm"]


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x[...,H] over its root mean square, times w f32[H]."""
    wide = x.float()
    length: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = length.mul_(length).mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return (wide * inverse).mul_(w).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm of the sum, the sum rounded to x's dtype)."""
    total = x + residual
    return rms_norm(total, w, eps), total
