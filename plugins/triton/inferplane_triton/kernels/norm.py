"""rms_norm/1 and add_rms_norm/1."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane_triton.device.norm import add_rms_norm_rows, rms_norm_rows
from inferplane_triton.tuning import target

__all__ = ["add_rms_norm", "rms_norm"]


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x[...,H] over its root mean square, times w f32[H]; one launch for [R,H] and [T,N,H]."""
    size = x.shape[-1]
    rows = x if x.dim() in (2, 3) else x.reshape(-1, size)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inner = rows.shape[1] if rows.dim() == 3 else 1
    within = rows.stride(1) if rows.dim() == 3 else 0
    block = int(triton.next_power_of_2(size))
    rms_norm_rows[(rows.numel() // size,)](
        rows, w, out, inner, rows.stride(0), within, inner * size, size, eps,
        SIZE=size, BLOCK=block, num_warps=_warps(block), **target().launch(len(rows)),
    )  # fmt: skip
    return out


def add_rms_norm(x: Tensor, residual: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm of x + residual, that sum) for x[...,H] and residual[...,H]."""
    size = x.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x, residual = x.reshape(-1, size), residual.reshape(-1, size)
    block = int(triton.next_power_of_2(size))
    add_rms_norm_rows[(len(x),)](
        x, residual, w, out, total, x.stride(0), residual.stride(0), eps,
        SIZE=size, BLOCK=block, num_warps=_warps(block), **target().launch(len(x)),
    )  # fmt: skip
    return out, total


def _warps(block: int) -> int:
    """Eight elements a lane of 32, within 1 to 16 warps."""
    return min(16, max(1, block // 256))
