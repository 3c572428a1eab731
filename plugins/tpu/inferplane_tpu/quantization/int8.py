"""Integer weights, one byte each, times activations in floating point or in 8 bits.

T tokens, O outputs, I inputs, G groups of inputs, B inputs of a group.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from inferplane_tpu.runtime import TpuRuntime

__all__ = ["IntegerWeights"]


class IntegerWeights(QuantKernel):
    """Codes lie in memory as int8 and become the activations' dtype inside the program, where XLA
    fuses that into the product. int4 codes take a byte too: half of bfloat16, not a quarter.
    """

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        assert isinstance(device, TpuRuntime)
        self._scheme = scheme
        self._site = site
        self._multiply = device.driver.int8_product()

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """int8 and int4 weights; int8 activations where a weight's scale is one an output."""
        group = scheme.group
        checks = (
            (scheme.weight in ("int8", "int4"), "holds integers only"),
            (scheme.activation in ("", "int8"), "activations in 8 bits are integers here"),
            (
                not scheme.activation or (group <= 0 and not scheme.offset),
                "int8 activations need one scale an output or a tensor, and no offsets",
            ),
            (
                group <= 0 or site.in_features % group == 0,
                f"{site.in_features} inputs are no whole groups of {group}",
            ),
            (site.dtype in ("bfloat16", "float32"), f"gives no {site.dtype}"),
            (not site.num_experts, "has no stacks of experts"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """codes int8 [O,I]; scales and offsets f32 [G,O]."""
        outputs = self._site.out_features
        packed = {"codes": weight.values.contiguous()}
        packed["scales"] = weight.scales.float().expand(outputs, -1).t().contiguous()
        if weight.offsets is not None:
            packed["offsets"] = weight.offsets.float().expand(outputs, -1).t().contiguous()
        if weight.order is not None:
            packed["order"] = weight.order
        if weight.input_scale is not None:
            packed["input_scale"] = weight.input_scale.float()
        return packed

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O] in x's dtype; sums are f32."""
        if "order" in packed:
            x = x.index_select(1, packed["order"])
        out = self._codes(x, packed) if self._scheme.activation else _wide(x, packed)
        if bias is not None:
            out = out + bias.float()
        return out.to(x.dtype)

    def _codes(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
        """Both sides in 8 bits, i32 sums: f32[T,O]."""
        scale = packed.get("input_scale")
        if scale is None:
            extent = "tensor" if self._scheme.activation_scale == "tensor" else "token"
            codes, scale = quantize_activation(x, f"int8_{extent}")
        else:
            codes = quantize_with(x, scale, "int8")
        return self._multiply(codes, packed["codes"]).float() * scale * packed["scales"]


def _wide(x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
    """Codes in x's dtype, which holds all of them exactly; scales follow the sums: f32[T,O]."""
    codes, scales = packed["codes"], packed["scales"]
    num_groups, num_tokens = scales.shape[0], x.shape[0]
    if num_groups == 1:
        out = (x @ codes.to(x.dtype).t()).float() * scales
    else:
        x_GTB = x.view(num_tokens, num_groups, -1).transpose(0, 1)
        codes_GBO = codes.view(codes.shape[0], num_groups, -1).permute(1, 2, 0)
        out = ((x_GTB @ codes_GBO.to(x.dtype)).float() * scales[:, None]).sum(0)
    if "offsets" in packed:  # the same for all inputs of a group: their sum meets it
        sums_TG = x.float().view(num_tokens, num_groups, -1).sum(-1)
        out = out + sums_TG @ packed["offsets"]
    return out
