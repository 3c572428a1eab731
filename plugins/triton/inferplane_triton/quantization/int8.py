"""int8 activations times int8 weights, summed in int32. T tokens, O outputs, I inputs."""

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
from inferplane.ops.reference.quantize import quantize_activation, quantize_with
from inferplane_triton.device.quantized import tile_int8

__all__ = ["Int8Activations"]


class Int8Activations(QuantKernel):
    """Activations are quantised on the way, a scale a token or one for all."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        self._scheme = scheme
        self._site = site

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """Symmetric int8 with a scale an output or a tensor, and int8 activations."""
        reasons = []
        if scheme.weight != "int8" or scheme.activation != "int8":
            reasons.append("multiplies int8 weights by int8 activations")
        if scheme.group > 0 or scheme.offset or scheme.reordered:
            reasons.append("needs one scale an output or a tensor, no offsets, no reordering")
        if site.in_features % 32:
            reasons.append(f"{site.in_features} inputs: needs a multiple of 32")
        if site.num_experts:
            reasons.append("has no stacks of experts")
        return tuple(reasons)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Values [O,I] as they are, scales f32 [O]."""
        scales = weight.scales.float().reshape(-1).expand(self._site.out_features)
        packed = {"values": weight.values.contiguous(), "scales": scales.contiguous()}
        if weight.input_scale is not None:
            packed["input_scale"] = weight.input_scale
        return packed

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O] in x's dtype."""
        given = packed.get("input_scale")
        if given is not None:
            q, scale = quantize_with(x, given, "int8"), given.float().reshape(1)
        else:
            extent = "tensor" if self._scheme.activation_scale == "tensor" else "token"
            q, scale = quantize_activation(x, f"int8_{extent}")
        values, scales = packed["values"], packed["scales"]
        out = torch.empty((len(x), len(scales)), dtype=x.dtype, device=x.device)
        high = 16 if len(x) <= 16 else 64
        grid = triton.cdiv(len(scales), 64), triton.cdiv(len(x), high)
        tile_int8[grid](
            q, values, scale, scales, scales if bias is None else bias, out, len(x), len(scales),
            int(scale.numel() > 1), INPUTS=x.shape[1], BM=high, BN=64,
            BK=min(128, x.shape[1] & -x.shape[1]), BIAS=bias is not None, num_warps=4, num_stages=3,
        )  # fmt: skip
        return out
