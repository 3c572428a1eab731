"""Gated activations: f32 inside, one temporary. T tokens, I inner size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["gelu_mul", "silu_mul"]


def silu_mul(x: Tensor) -> Tensor:
    """silu of the first half of x[T,2I] times the second half -> [T,I]."""
    gate, up = x.float().chunk(2, dim=-1)
    return F.silu(gate).mul_(up).to(x.dtype)


def gelu_mul(x: Tensor) -> Tensor:
    """Tanh-approximated gelu of the first half of x[T,2I] times the second half -> [T,I]."""
    gate, up = x.float().chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up).to(x.dtype)
