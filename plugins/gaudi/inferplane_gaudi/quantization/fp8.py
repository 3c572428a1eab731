"""fp8 weights times fp8 activations by the device's own product. T tokens, O outputs, I inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
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
from inferplane_gaudi.quantization.range240 import LARGEST, to_range240
from inferplane_gaudi.runtime import HpuRuntime

__all__ = ["OcpFp8", "ScaledFp8"]

_OCP_LARGEST = 448.0
_SMALLEST = 1e-12
"""Scale of a row of zeros."""


class ScaledFp8(QuantKernel):
    """One scale an output and one a token, or the one the checkpoint gives for all tokens.

    For the second generation, which reads the highest exponent of e4m3fn as no number.
    """

    flavour: ClassVar[str] = "range240"
    largest: ClassVar[float] = LARGEST
    """What a row's largest activation becomes."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        assert isinstance(device, HpuRuntime)
        self._site = site
        self._whole = scheme.activation_scale == "tensor"
        self._multiply = device.stack.fp8_product()

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """fp8 on both sides, one scale an output or a tensor."""
        checks = (
            (caps.fp8 == cls.flavour, f"codes are {cls.flavour}, the device's are {caps.fp8}"),
            (
                scheme.weight == scheme.activation == "fp8_e4m3",
                "multiplies fp8 weights by fp8 activations",
            ),
            (
                scheme.group <= 0 and not scheme.offset and not scheme.reordered,
                "needs one scale an output or a tensor, no offsets, no reordering",
            ),
            (site.dtype in ("bfloat16", "float32"), f"gives no {site.dtype}"),
            (not site.num_experts, "has no stacks of experts"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Codes [O,I] within 240, scales f32 [1,O]."""
        scales = weight.scales.float().reshape(-1, 1).expand(self._site.out_features, 1)
        codes, scales = self._fitting(weight.values, scales)
        packed = {"codes": codes.contiguous(), "scales": scales.reshape(1, -1).contiguous()}
        if weight.input_scale is not None:  # made for codes up to 448
            widened = weight.input_scale.float() * (2.0 if self.largest < _OCP_LARGEST else 1.0)
            packed["input_scale"] = widened.reshape(1, 1)
        return packed

    def _fitting(self, values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales that the device reads as the checkpoint means them."""
        return to_range240(values, scales)

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O] in x's dtype."""
        wide = x.float()
        scale = packed.get("input_scale")
        if scale is None:
            largest = wide.abs().amax(-1, keepdim=True)
            if self._whole:
                largest = largest.amax(0, keepdim=True)
            scale = (largest / self.largest).clamp_min(_SMALLEST)
        codes = (wide / scale).clamp(-self.largest, self.largest).to(torch.float8_e4m3fn)
        out: Tensor = self._multiply(
            codes, False, packed["codes"], True, None, x.dtype, scale, packed["scales"], bias, False
        )
        return out


class OcpFp8(ScaledFp8):
    """For the third generation, whose e4m3fn reaches 448 as checkpoints' does: codes stay."""

    flavour = "e4m3fn"
    largest = _OCP_LARGEST

    def _fitting(self, values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        return values, scales
