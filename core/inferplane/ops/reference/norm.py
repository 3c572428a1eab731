"""Norms in plain torch: f32 inside, rounded once. H normalised size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["add_rms_norm", "layer_norm", "rms_norm"]


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x[...,H] over its root mean square, times w f32[H] (arXiv:1910.07467)."""
    wide = x.float()
    mean_square = wide.pow(2).mean(-1, keepdim=True)
    return (wide * torch.rsqrt(mean_square + eps) * w).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm of the sum, the sum rounded to x's dtype) for x[...,H] and residual[...,H]."""
    total = x + residual
    return rms_norm(total, w, eps), total


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    """x[...,H] centred and scaled to unit variance, times w f32[H], plus b f32[H]."""
    return F.layer_norm(x.float(), (x.shape[-1],), w, b, eps).to(x.dtype)
