"""fp8 activations times fp8 weights by the matrix instructions of the device.

T tokens, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
from torch import Tensor

from inferplane.interfaces import (
    CanonicalWeight,
    Capabilities,
    DeviceRuntime,
    LinearSite,
    QuantKernel,
    QuantScheme,
    Reasons,
)
from inferplane_triton.device.quantized import round_rows
from inferplane_triton.quantization.weight_only import STREAMED_ROWS, WeightOnly
from inferplane_triton.tuning import target

__all__ = ["ScaledFp8", "round_to_fp8"]

_MULTIPLE = 16


class ScaledFp8(QuantKernel):
    """A scale an output and a scale a token; up to 4 rows stream the codes instead."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        self._few = WeightOnly(scheme, site, device)

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """bfloat16 results; sizes in multiples of 16."""
        reasons = list(WeightOnly.supports(scheme, site, caps))
        if scheme.weight != "fp8_e4m3" or scheme.activation != "fp8_e4m3":
            reasons.append("multiplies fp8 weights by fp8 activations")
        if scheme.activation_scale == "tensor":
            reasons.append("needs a scale a token, or one that is given")
        if scheme.group > 0 or scheme.offset or scheme.reordered:
            reasons.append("needs one scale an output or a tensor, no offsets, no reordering")
        if site.dtype != "bfloat16":
            reasons.append(f"gives bfloat16, not {site.dtype}")
        if site.in_features % _MULTIPLE or site.out_features % _MULTIPLE:
            reasons.append(
                f"{site.out_features} x {site.in_features}: needs multiples of {_MULTIPLE}"
            )
        return tuple(reasons)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Codes [O,I] as they are, scales f32 [O,1]."""
        return self._few.repack(weight)

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O]."""
        if len(x) <= STREAMED_ROWS:
            return self._few.apply(x, packed, bias)
        q, scale = round_to_fp8(x, packed.get("input_scale"))
        out = torch._scaled_mm(  # the quick sums are far finer than the steps of e4m3
            q, packed["codes"].t(), scale, packed["scales"].t(), out_dtype=x.dtype,
            use_fast_accum=True,
        )  # fmt: skip
        return out if bias is None else out.add_(bias)  # cuBLAS takes none beside scales by row


def round_to_fp8(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(x[T,I] in e4m3, scales f32[T,1]); the largest of a row becomes 448, unless one is `given`
    for all."""
    rows, inputs = x.shape
    q = torch.empty((rows, inputs), dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    pad = int(triton.next_power_of_2(inputs))
    round_rows[(rows,)](
        x, q, scale, scale if given is None else given, x.stride(0), INPUTS=inputs, PAD=pad,
        GIVEN=given is not None, BY_BITS=target().backend == "interpreter",
        num_warps=min(16, max(1, pad // 1024)),
    )  # fmt: skip
    return q, scale
