"""add_norm_linear/1 and silu_mul_linear/1: what comes before a matrix, on the way into it.

One row is bound by launches, so the work is repeated in each program instead of written out; more
rows run the separate kernels.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane.interfaces import Capabilities, Kernel, OpSite, Reasons
from inferplane_triton.device.stream import stream_gated, stream_normed
from inferplane_triton.kernels.activation import silu_mul
from inferplane_triton.kernels.linear import linear
from inferplane_triton.kernels.norm import add_rms_norm
from inferplane_triton.tuning import gated_tuning, normed_tuning, target

__all__ = ["ADD_NORM_LINEAR", "SILU_MUL_LINEAR", "add_norm_linear", "silu_mul_linear"]


def add_norm_linear(
    x: Tensor, residual: Tensor, norm_w: Tensor, eps: float, w: Tensor, b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(linear of rms_norm(x + residual), x + residual) for x, residual [T,I] and w[O,I]."""
    if x.shape[0] != 1:
        normed, total = add_rms_norm(x, residual, norm_w, eps)
        return linear(normed, w, b), total
    outputs, inputs = w.shape
    tuning = normed_tuning(inputs, outputs)
    out = torch.empty((1, outputs), dtype=x.dtype, device=x.device)
    total = torch.empty((1, inputs), dtype=x.dtype, device=x.device)
    stream_normed[(triton.cdiv(outputs, tuning.rows),)](
        x, residual, norm_w, w, w if b is None else b, out, total,
        x.stride(0), residual.stride(0), w.stride(0), outputs, outputs, eps,
        INPUTS=inputs, PAD=tuning.cols, M=1, ROWS=tuning.rows, ADD=True, BIAS=b is not None,
        num_warps=tuning.warps, **target().launch(1),
    )  # fmt: skip
    return out, total


def silu_mul_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """linear of silu_mul(x) for x[T,2I] and w[O,I]."""
    if x.shape[0] != 1 or b is not None:
        return linear(silu_mul(x), w, b)
    outputs, inputs = w.shape
    tuning = gated_tuning(inputs, outputs)
    out = torch.empty((1, outputs), dtype=x.dtype, device=x.device)
    stream_gated[(triton.cdiv(outputs, tuning.rows),)](
        x, w, out, x.stride(0), w.stride(0), outputs, outputs,
        INPUTS=inputs, M=1, ROWS=tuning.rows, COLS=tuning.cols, num_warps=tuning.warps,
        **target().launch(1),
    )  # fmt: skip
    return out


def _fits(site: OpSite, caps: Capabilities) -> Reasons:
    reasons = []
    if site.dtype not in ("bfloat16", "float16"):
        reasons.append(f"streams 16-bit weights, not {site.dtype}")
    if site.dims["I"] > 3072:
        reasons.append(f"I = {site.dims['I']}: repeating the work pays up to 3072")
    return tuple(reasons)


ADD_NORM_LINEAR = Kernel(add_norm_linear, _fits)
SILU_MUL_LINEAR = Kernel(silu_mul_linear, _fits)
