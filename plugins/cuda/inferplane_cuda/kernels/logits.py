"""logits/1: 16-bit operands, float32 result, in one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane.interfaces import Capabilities, Kernel, OpSite, Reasons

__all__ = ["LOGITS", "logits"]


def logits(x: Tensor, w: Tensor) -> Tensor:
    """x[R,D] times w[V,D] transposed -> f32[R,V], without a rounded copy in between."""
    return torch.mm(x, w.t(), out_dtype=torch.float32)


def _supports(site: OpSite, caps: Capabilities) -> Reasons:
    if site.dtype not in ("bfloat16", "float16"):
        return (f"widens 16-bit products, {site.dtype} needs no widening",)
    return ()


LOGITS = Kernel(logits, _supports)
