"""linear/1: one row streams the weights itself, more rows go to torch's matrix product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from inferplane.interfaces import Capabilities, Kernel, OpSite, Reasons
from inferplane_triton.device.stream import stream_rows
from inferplane_triton.tuning import stream_tuning, target

__all__ = ["LINEAR", "linear"]


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x[T,I] times w[O,I] transposed, plus b[O] -> [T,O]."""
    if x.dim() != 2 or x.shape[0] != 1:
        return F.linear(x, w, b)
    outputs, inputs = w.shape
    tuning = stream_tuning(inputs, outputs)
    out = torch.empty((1, outputs), dtype=x.dtype, device=x.device)
    stream_rows[(triton.cdiv(outputs, tuning.rows),)](
        x, w, w if b is None else b, out, x.stride(0), w.stride(0), outputs, outputs,
        INPUTS=inputs, M=1, ROWS=tuning.rows, COLS=tuning.cols, BIAS=b is not None,
        STAGES=tuning.stages, num_warps=tuning.warps, **target().launch(1),
    )  # fmt: skip
    return out


def _supports(site: OpSite, caps: Capabilities) -> Reasons:
    reasons = []
    if site.dtype not in ("bfloat16", "float16"):
        reasons.append(f"streams 16-bit weights, not {site.dtype}")
    inputs, outputs = site.dims["I"], site.dims["O"]
    if 2 * inputs * outputs > 512 << 20:
        reasons.append(f"{outputs} x {inputs}: large matrices stream fully in torch's product")
    return tuple(reasons)


LINEAR = Kernel(linear, _supports)
