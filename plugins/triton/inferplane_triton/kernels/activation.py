"""silu_mul/1 and gelu_mul/1."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane_triton.device.activation import gated_rows
from inferplane_triton.tuning import target

__all__ = ["gelu_mul", "silu_mul"]


def silu_mul(x: Tensor) -> Tensor:
    """silu of the first half of x[T,2I] times the second half -> [T,I]."""
    return _gated(x, gelu=False)


def gelu_mul(x: Tensor) -> Tensor:
    """Tanh-approximated gelu of the first half of x[T,2I] times the second half -> [T,I]."""
    return _gated(x, gelu=True)


def _gated(x: Tensor, gelu: bool) -> Tensor:
    size = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], size), dtype=x.dtype, device=x.device)
    rows = x if x.dim() == 2 else x.reshape(-1, 2 * size)
    block = min(1024, int(triton.next_power_of_2(size)))
    gated_rows[(len(rows), triton.cdiv(size, block))](
        rows, out, rows.stride(0), SIZE=size, GELU=gelu, BLOCK=block,
        num_warps=4, **target().launch(len(rows)),
    )  # fmt: skip
    return out
