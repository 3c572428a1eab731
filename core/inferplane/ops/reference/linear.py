"""Dense multiplication in plain torch. T tokens, I inputs, O outputs, R sampled rows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear", "logits"]


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x[T,I] times w[O,I] transposed, plus b[O] -> [T,O] in x's dtype."""
    return F.linear(x, w, b)


def logits(x: Tensor, w: Tensor) -> Tensor:
    """x[R,D] times w[V,D] transposed -> f32[R,V]."""
    return F.linear(x, w).float()
