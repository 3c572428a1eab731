"""What quantised weights mean, in plain torch: the truth every kernel is compared with.

T tokens, O output features, I input features, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
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

__all__ = ["ReferenceKernel", "dequantize", "dequantize_into", "requantize_input"]

_PIECE_ELEMENTS = 2**22


def dequantize(weight: CanonicalWeight, scheme: QuantScheme) -> Tensor:
    """f32[O,I], inputs in their natural order: values * scales + offsets."""
    in_features = weight.values.shape[1]
    wide = weight.values.float() * _for_each_input(weight.scales, scheme, in_features)
    if weight.offsets is not None:
        wide = wide + _for_each_input(weight.offsets, scheme, in_features)
    if weight.order is None:
        return wide
    natural = torch.empty_like(wide)
    natural[:, weight.order.long()] = wide
    return natural


def _for_each_input(part: Tensor, scheme: QuantScheme, in_features: int) -> Tensor:
    """[O,G] -> [O,1] or [O,I]; a last group may be shorter."""
    if scheme.group <= 0:
        return part
    return part.repeat_interleave(scheme.group, 1)[:, :in_features]


def dequantize_into(target: Tensor, weight: CanonicalWeight, scheme: QuantScheme) -> None:
    """Fill target [O,I] of any dtype, a few rows at a time: a vocabulary's f32 would be large."""
    step = max(1, _PIECE_ELEMENTS // max(target.shape[1], 1))
    for row in range(0, target.shape[0], step):
        rows = slice(row, row + step)
        part = replace(
            weight,
            values=weight.values[rows],
            scales=weight.scales[rows],
            offsets=None if weight.offsets is None else weight.offsets[rows],
        )
        target[rows] = dequantize(part, scheme)


def requantize_input(x: Tensor, scheme: QuantScheme, input_scale: Tensor | None) -> Tensor:
    """x[T,I] as the layer's activation scheme sees it, back in x's dtype."""
    if not scheme.activation:
        return x
    if input_scale is not None:
        q, scale = quantize_with(x, input_scale, scheme.activation), input_scale
    else:
        extent = "tensor" if scheme.activation_scale == "tensor" else "token"
        q, scale = quantize_activation(x, f"{scheme.activation}_{extent}")
    return (q.float() * scale).to(x.dtype)


class ReferenceKernel(QuantKernel):
    """Dequantises once, after loading, and multiplies densely: right everywhere, fast nowhere."""

    def __init__(
        self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime | None = None
    ) -> None:
        """The device is not needed: repacking happens where the weight lies."""
        self.scheme = scheme
        self.dtype: torch.dtype = getattr(torch, site.dtype)

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        return ()

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        dense = torch.empty(weight.values.shape, dtype=self.dtype, device=weight.values.device)
        dequantize_into(dense, weight, self.scheme)
        packed = {"weight": dense}
        if weight.input_scale is not None:
            packed["input_scale"] = weight.input_scale
        return packed

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        x = requantize_input(x, self.scheme, packed.get("input_scale"))
        return F.linear(x, packed["weight"], bias)
