"""Quantised layers as compressed-tensors stores them: what `quantize` writes, layer by layer.

No calibration: int8 and fp8 round to nearest, int4 searches for its scales. O output features,
I input features, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.quantization.packing import pack
from inferplane.quantization.scale_search import symmetric_scales

__all__ = ["GROUP", "METHODS", "compressed_config", "compressed_layer"]

METHODS = ("int8", "int4", "fp8")
"""What a layer can be written in."""
GROUP = 32
"""Inputs that share a scale in int4."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_LEAST = 1e-12
_PIECE = 2**15
"""Groups rounded at once: a layer needs float32 for itself and this many."""
_MOST_FP8 = 448.0

_INT8: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
# Symmetric: compressed-tensors 0.20 cannot load the packed zero points that it writes itself.
_INT4: dict[str, Any] = {**_INT8, "num_bits": 4, "strategy": "group", "group_size": GROUP}
_FP8: dict[str, Any] = {**_INT8, "type": "float"}
_FP8_TOKENS: dict[str, Any] = {**_FP8, "strategy": "token", "dynamic": True}
_SCHEMES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "int8": ("pack-quantized", _INT8, None),
    "int4": ("pack-quantized", _INT4, None),
    "fp8": ("float-quantized", _FP8, _FP8_TOKENS),
}


def compressed_config(method: str, kept: Sequence[str]) -> dict[str, object]:
    """quantization_config for a model whose linear layers are written so, but for those `kept`.

    Raises ConfigError for what is none of METHODS.
    """
    layout, weights, activations = _scheme(method)
    group = {
        "targets": ["Linear"],
        "weights": {"dynamic": False, **weights},
        "input_activations": activations,
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(kept),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def compressed_layer(layer: str, weight: Tensor, method: str) -> dict[str, Tensor]:
    """The tensors that stand for `layer`.weight [O,I], under their names.

    Scales keep the weight's dtype, and codes are chosen for the scale as it is stored. Raises
    ModelError for weights that are no finite matrix or, with int4, have no whole groups.
    """
    _scheme(method)
    if weight.dtype not in _FLOATS or weight.ndim != 2:
        raise ModelError(
            f"tensor '{layer}.weight' is {list(weight.shape)} of {weight.dtype}: only matrices of "
            "float32, float16 or bfloat16 can be quantised"
        )
    wide = weight.float()
    if not bool(torch.isfinite(wide).all()):
        raise ModelError(f"tensor '{layer}.weight' holds values that are not finite")
    parts = {"int8": _int8, "int4": _int4, "fp8": _fp8}[method](layer, wide, weight.dtype)
    return {f"{layer}.{name}": tensor for name, tensor in parts.items()}


def _scheme(method: str) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    found = _SCHEMES.get(method)
    if found is None:
        raise ConfigError(f"method {method!r} is unknown (accepted: {', '.join(METHODS)})")
    return found


def _int8(layer: str, wide: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    scales = _stored(wide.abs().amax(1, keepdim=True) / 127, dtype)
    codes = (wide / scales.float()).round().clamp(-128, 127) + 128
    return _packed(wide, codes, 8) | {"weight_scale": scales}


def _int4(layer: str, wide: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Scales by search, codes for the scales as they are stored."""
    if wide.shape[1] % GROUP:
        raise ModelError(
            f"tensor '{layer}.weight' has {wide.shape[1]} inputs, int4 needs a multiple of "
            f"{GROUP}: use method int8"
        )
    groups = wide.view(-1, GROUP)
    scales = _stored(symmetric_scales(groups), dtype)
    codes = torch.empty(wide.shape, dtype=torch.uint8)
    grouped = codes.view(-1, GROUP)
    for at in range(0, len(groups), _PIECE):
        some = slice(at, at + _PIECE)
        steps = groups[some] / scales[some, None].float()
        grouped[some] = steps.round_().clamp_(-8, 7).add_(8).to(torch.uint8)
    return _packed(wide, codes, 4) | {"weight_scale": scales.view(len(wide), -1)}


def _fp8(layer: str, wide: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    scales = _stored(wide.abs().amax(1, keepdim=True) / _MOST_FP8, dtype)
    codes = (wide / scales.float()).clamp(-_MOST_FP8, _MOST_FP8)
    return {"weight": codes.to(torch.float8_e4m3fn), "weight_scale": scales}


def _packed(wide: Tensor, codes: Tensor, bits: int) -> dict[str, Tensor]:
    return {
        "weight_packed": pack(codes.to(torch.uint8), bits),
        "weight_shape": torch.tensor(wide.shape, dtype=torch.int64),
    }


def _stored(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """In the checkpoint's dtype, and no smaller than the smallest number that divides there."""
    least = max(_LEAST, torch.finfo(dtype).tiny)
    return torch.where(scales.abs() < least, least, scales).to(dtype)
