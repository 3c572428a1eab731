"""Dense multiplication; bfloat16 weights are packed once for oneDNN, which streams them faster.

T tokens, I inputs, O outputs, R sampled rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear", "logits"]

_MOST_PACKED_BYTES = 64 << 20
"""A packed copy stands beside its original; large weights stream well enough without one."""


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x[T,I] times w[O,I] transposed, plus b[O] -> [T,O] in x's dtype."""
    if w.dtype is not torch.bfloat16:
        return F.linear(x, w, b)
    packed = _packed(w)
    if packed is None or not x.shape[0]:
        return F.linear(x, w, b)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, b, "none", [], "")
    return out


def logits(x: Tensor, w: Tensor) -> Tensor:
    """x[R,D] times w[V,D] transposed -> f32[R,V]; compiled steps leave x in f32 beside a bf16 w."""
    return linear(x.to(w.dtype), w, None).float()


def _packed(w: Tensor) -> Tensor | None:
    """The packed form, made at first use and kept on the weight itself; None where it is none."""
    try:
        packed: Tensor | None = w._cpu_packed  # type: ignore[attr-defined]
    except AttributeError:
        packs = torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        fits = packs and w.nbytes <= _MOST_PACKED_BYTES
        packed = torch.ops.mkldnn._reorder_linear_weight(w.contiguous()) if fits else None
        w._cpu_packed = packed  # type: ignore[attr-defined]
    return packed
