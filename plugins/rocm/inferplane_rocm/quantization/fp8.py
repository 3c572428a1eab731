"""fp8 weights times fp8 activations through hipBLASLt. T tokens, O outputs, I inputs."""

from __future__ import annotations

from collections.abc import Mapping

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
from inferplane.ops.reference.quantize import quantize_activation, quantize_with
from inferplane_rocm.quantization.flavours import FNUZ_SCALE, to_fnuz
from inferplane_rocm.runtime import RocmRuntime

__all__ = ["ScaledFp8"]


class ScaledFp8(QuantKernel):
    """Products are summed in float32 and scaled afterwards, so any scale goes with any dtype.

    On gfx942 weights and activations change their flavour bit by bit: both devices compute the
    same numbers.
    """

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        assert isinstance(device, RocmRuntime)
        self._scheme = scheme
        self._site = site
        self._fnuz = device.reads_fnuz

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """fp8 on both sides, one scale an output or a tensor, sizes the library takes."""
        checks = (
            (caps.fp8 in ("e4m3fn", "e4m3fnuz"), "this generation multiplies no fp8"),
            (
                scheme.weight == scheme.activation == "fp8_e4m3",
                "multiplies fp8 weights by fp8 activations",
            ),
            (
                scheme.group <= 0 and not scheme.offset and not scheme.reordered,
                "needs one scale an output or a tensor, no offsets, no reordering",
            ),
            (
                site.in_features % 16 == 0 and site.out_features % 16 == 0,
                f"{site.in_features} inputs, {site.out_features} outputs: needs multiples of 16",
            ),
            (not site.num_experts, "has no stacks of experts"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Values [O,I] in the device's flavour, scales f32 [1,O]."""
        values = weight.values.contiguous()
        scales = weight.scales.float().reshape(-1).expand(self._site.out_features)
        packed = {
            "values": to_fnuz(values) if self._fnuz else values,
            "scales": (scales * (FNUZ_SCALE if self._fnuz else 1.0)).reshape(1, -1).contiguous(),
            "one": torch.ones((), device=values.device),
        }
        if weight.input_scale is not None:
            packed["input_scale"] = weight.input_scale
        return packed

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O] in x's dtype."""
        given = packed.get("input_scale")
        if given is not None:
            q, scale = quantize_with(x, given, "fp8_e4m3"), given.float()
        else:
            extent = "tensor" if self._scheme.activation_scale == "tensor" else "token"
            q, scale = quantize_activation(x, f"fp8_e4m3_{extent}")
        if self._fnuz:
            q, scale = to_fnuz(q), scale * FNUZ_SCALE
        one = packed["one"]
        product = torch._scaled_mm(
            q, packed["values"].t(), scale_a=one, scale_b=one, out_dtype=torch.float32
        )
        out = product * scale * packed["scales"]
        if bias is not None:
            out = out + bias
        return out.to(x.dtype)
