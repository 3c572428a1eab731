"""Quantise a high-precision checkpoint while it is loaded: layer by layer, never as a whole.

No calibration: int8 and fp8 round to nearest, int4 searches for its steps. O output features,
I input features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import num_groups, slice_weight
from inferplane.quantization.scale_search import range_steps

__all__ = ["ONLINE_KINDS", "Online"]

ONLINE_KINDS = ("int8", "int4", "fp8")
"""What a user may ask for."""
_GROUP = 32
_SMALLEST = 1e-12
_PIECE_ELEMENTS = 2**20
"""Widened to float32 at once: beyond its result a layer needs memory for this many only."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INT8 = QuantScheme("int8")
_SCHEMES = {
    "int8": _INT8,
    "int4": QuantScheme("int4", group=_GROUP, offset=True),
    "fp8": QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
}


class Online(QuantFormat):
    """quant_method "online", with "weights" one of ONLINE_KINDS.

    int8 has a scale for each output, int4 a scale and an offset for 32 inputs; both keep
    activations, which in small models have outliers that 8 bits for a token cannot hold. fp8 has a
    scale for each output and quantises activations, as the hardware that has fp8 wants it. The
    output layer is int8 where the others are int4, and stays as it is with fp8.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        kind = config.get("weights")
        if kind not in ONLINE_KINDS:
            raise ConfigError(
                f"quantization {kind!r} is unknown (accepted: {', '.join(ONLINE_KINDS)})"
            )
        self._scheme = _SCHEMES[str(kind)]

    def scheme(self, layer: str) -> QuantScheme | None:
        if layer == "lm_head":
            return None if self._scheme.weight == "fp8_e4m3" else _INT8
        return self._scheme

    def tensors(self, layer: str) -> tuple[str, ...]:
        return (f"{layer}.weight",)

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        name = f"{layer}.weight"
        weight = tensors[name]
        if weight.dtype not in _FLOATS or weight.ndim != 2:
            raise ModelError(
                f"tensor {name!r} is {list(weight.shape)} of {weight.dtype}: only matrices of "
                "float32, float16 or bfloat16 can be quantised"
            )
        scheme = self.scheme(layer)
        assert scheme is not None, "asked for a layer that is not quantised"
        if scheme.group and weight.shape[1] % scheme.group:
            raise ModelError(
                f"tensor {name!r} has {weight.shape[1]} inputs, int4 needs a multiple of "
                f"{scheme.group}: use quantization int8"
            )
        result = _empty(weight, scheme)
        step = max(1, _PIECE_ELEMENTS // max(weight.shape[1], 1))
        # One buffer for all pieces: what is freed and taken again and again, a heap may not reuse.
        buffer = torch.empty(
            min(step, len(weight)), weight.shape[1], dtype=torch.float32, device=weight.device
        )
        for row in range(0, weight.shape[0], step):
            rows = slice(row, row + step)
            wide = buffer[: len(weight[rows])].copy_(weight[rows])
            low, high = torch.aminmax(wide)
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise ModelError(f"tensor {name!r} holds values that are not finite")
            _fill(slice_weight(result, rows, slice(None), scheme), wide)
        return result


def _empty(weight: Tensor, scheme: QuantScheme) -> CanonicalWeight:
    out_features, in_features = weight.shape
    device = weight.device
    dtype = torch.float8_e4m3fn if scheme.weight == "fp8_e4m3" else torch.int8
    scales = torch.empty(out_features, num_groups(scheme, in_features), device=device)
    return CanonicalWeight(
        torch.empty(out_features, in_features, dtype=dtype, device=device),
        scales,
        torch.empty_like(scales) if scheme.offset else None,
    )


def _fill(target: CanonicalWeight, wide: Tensor) -> None:
    """Some rows, whose parts are views of the whole layer's; `wide` is used up."""
    if target.offsets is not None:
        _fill_steps(target.values, target.scales, target.offsets, wide)
        return
    is_fp8 = target.values.dtype == torch.float8_e4m3fn
    most = 448.0 if is_fp8 else 127.0
    low, high = torch.aminmax(wide, dim=1, keepdim=True)
    scales = (torch.maximum(-low, high) / most).clamp_min(_SMALLEST)
    scaled = wide.div_(scales).clamp_(-most, most)
    target.values.copy_(scaled if is_fp8 else scaled.round_())
    target.scales.copy_(scales)


def _fill_steps(values: Tensor, scales: Tensor, offsets: Tensor, wide: Tensor) -> None:
    """Sixteen even steps over the part of a group's range that suits it best."""
    groups = wide.view(-1, _GROUP)
    step, low = range_steps(groups)
    step.clamp_min_(_SMALLEST)
    codes = groups.sub_(low[:, None]).div_(step[:, None]).round_().clamp_(0, 15).sub_(8)
    values.copy_(codes.view_as(wide))
    scales.copy_(step.view_as(scales))
    offsets.copy_((low + 8 * step).view_as(offsets))
