"""FP8 checkpoints with quant_method "fp8": one scale a tensor, or blocks (DeepSeek, Qwen).

`layer`.weight f8e4m3[O,I]; weight_scale [1] with input_scale [1] where static; in blocks
weight_scale_inv f32[O/rows, I/columns], which multiplies in spite of its name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ConfigError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import expand_scales, take
from inferplane.quantization.layer_rules import is_listed, name_list

__all__ = ["Fp8"]


class Fp8(QuantFormat):
    """quant_method "fp8"."""

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = CheckedKeys("quantization_config", config)
        flavour = keys.text("fmt", "e4m3")
        if flavour not in ("e4m3", "float8_e4m3fn"):
            raise ConfigError(f"quantization_config: fp8 {flavour!r} is not served, e4m3 is")
        activation = keys.text("activation_scheme", "dynamic")
        if activation not in ("dynamic", "static"):
            raise keys.fault("activation_scheme", activation, "dynamic or static")
        self._is_static = activation == "static"
        self._rows, self._columns = _block(keys)
        if self._rows and self._is_static:
            raise ConfigError("quantization_config: fp8 blocks with static activation scales")
        self._kept = name_list("quantization_config: ignored_layers", keys.find("ignored_layers"))
        self._kept += name_list(
            "quantization_config: modules_to_not_convert", keys.find("modules_to_not_convert")
        )

    def scheme(self, layer: str) -> QuantScheme | None:
        if layer.endswith("lm_head") or is_listed(layer, self._kept):
            return None
        return QuantScheme(
            "fp8_e4m3",
            group=self._columns,
            activation="fp8_e4m3",
            activation_scale="static" if self._is_static else "token",
        )

    def tensors(self, layer: str) -> tuple[str, ...]:
        parts = ["weight", "weight_scale_inv" if self._rows else "weight_scale"]
        if self._is_static:
            parts.append("input_scale")
        return tuple(f"{layer}.{part}" for part in parts)

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        values = take(tensors, f"{layer}.weight", (torch.float8_e4m3fn,), 2)
        name = f"{layer}.weight_scale_inv" if self._rows else f"{layer}.weight_scale"
        scales = expand_scales(name, tensors, values.shape, self._rows)
        input_scale = None
        if self._is_static:
            shape = (values.shape[0], 1)
            input_scale = expand_scales(f"{layer}.input_scale", tensors, shape)[0]
        return CanonicalWeight(values, scales, input_scale=input_scale)


def _block(keys: CheckedKeys) -> tuple[int, int]:
    """(rows, columns) of a block; (0, 0) = one scale a tensor."""
    found = keys.find("weight_block_size")
    match found:
        case None:
            return 0, 0
        case [int(rows), int(columns)] if 0 < rows <= 65_536 and 0 < columns <= 65_536:
            return rows, columns
    raise keys.fault("weight_block_size", found, "two positive numbers")
