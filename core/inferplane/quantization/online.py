"""Quantise a high-precision checkpoint while it is loaded: layer by layer, never as a whole.

Round to nearest, no calibration. O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme

__all__ = ["ONLINE_KINDS", "Online"]

ONLINE_KINDS = ("int8", "int4", "fp8")
"""What a user may ask for."""
_GROUP = 32
_SMALLEST = 1e-12
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
        wide = weight.float()
        low, high = torch.aminmax(wide)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise ModelError(f"tensor {name!r} holds values that are not finite")
        if scheme.weight == "int4":
            return _int4(name, wide)
        return _per_output(wide, scheme.weight)


def _per_output(wide: Tensor, kind: str) -> CanonicalWeight:
    dtype, most = (torch.int8, 127.0) if kind == "int8" else (torch.float8_e4m3fn, 448.0)
    scales = (wide.abs().amax(1, keepdim=True) / most).clamp_min(_SMALLEST)
    scaled = (wide / scales).clamp(-most, most)
    return CanonicalWeight((scaled.round() if kind == "int8" else scaled).to(dtype), scales)


def _int4(name: str, wide: Tensor) -> CanonicalWeight:
    """Sixteen even steps from a group's least to its greatest value."""
    if wide.shape[1] % _GROUP:
        raise ModelError(
            f"tensor {name!r} has {wide.shape[1]} inputs, int4 needs a multiple of {_GROUP}: use "
            "quantization int8"
        )
    groups = wide.view(wide.shape[0], -1, _GROUP)
    low, high = torch.aminmax(groups, dim=2)
    scales = ((high - low) / 15).clamp_min(_SMALLEST)
    steps = ((groups - low[..., None]) / scales[..., None]).round().clamp(0, 15)
    values = (steps - 8).to(torch.int8)
    return CanonicalWeight(values.view_as(wide), scales, low + 8 * scales)
