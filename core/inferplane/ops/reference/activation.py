"""Activations in plain torch. T tokens, I inner size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gelu", "gelu_erf", "gelu_mul", "silu_mul"]


def silu_mul(x: Tensor) -> Tensor:
    """silu of the first half of x[T,2I] times the second half -> [T,I] (arXiv:2002.05202)."""
    gate, up = x.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


def gelu_mul(x: Tensor) -> Tensor:
    """Tanh-approximated gelu of the first half of x[T,2I] times the second half -> [T,I]."""
    gate, up = x.float().chunk(2, dim=-1)
    # (1 + tanh(y)) / 2 = sigmoid(2y): the left side cancels in float32, and an oracle must not
    inner = 1.5957691216057308 * (gate + 0.044715 * gate.pow(3))
    return (gate * torch.sigmoid(inner) * up).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """Tanh-approximated gelu of x[T,I] (arXiv:1606.08415)."""
    return F.gelu(x.float(), approximate="tanh").to(x.dtype)


def gelu_erf(x: Tensor) -> Tensor:
    """Gelu of x[T,I] by the error function, as encoders have it (arXiv:1606.08415)."""
    return F.gelu(x.float()).to(x.dtype)
