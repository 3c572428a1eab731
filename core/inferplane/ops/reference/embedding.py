"""Embedding lookup in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["embedding"]


def embedding(ids: Tensor, w: Tensor) -> Tensor:
    """Rows ids i32[T] of w[V,D] -> [T,D]."""
    return F.embedding(ids, w)
