"""Dense multiplication in plain torch. T tokens, I inputs, O outputs, R sampled rows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from inferplane.ops.reference.activation import silu_mul
from inferplane.ops.reference.norm import add_rms_norm

__all__ = ["add_norm_linear", "linear", "logits", "silu_mul_linear"]


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x[T,I] times w[O,I] transposed, plus b[O] -> [T,O] in x's dtype."""
    return F.linear(x, w, b)


def logits(x: Tensor, w: Tensor) -> Tensor:
    """x[R,D] times w[V,D] transposed -> f32[R,V]."""
    return F.linear(x, w).float()


def add_norm_linear(
    x: Tensor, residual: Tensor, norm_w: Tensor, eps: float, w: Tensor, b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(`linear` of the norm, the sum): `add_rms_norm` of x and residual [T,I], then w[O,I]."""
    normed, total = add_rms_norm(x, residual, norm_w, eps)
    return linear(normed, w, b), total


def silu_mul_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """`silu_mul` of x[T,2I], then `linear` by w[O,I] -> [T,O]."""
    return linear(silu_mul(x), w, b)
