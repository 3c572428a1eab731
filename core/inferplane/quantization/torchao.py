"""Checkpoints of torchao in safetensors, as transformers saves them: int8 and fp8.

`layer`._weight_qdata i8 or f8e4m3[O,I]; _weight_scale f32[O,1], or [1,1] by tensor;
int8 also _weight_zero_point i8, which is 0 as only symmetric layouts are written so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import expand_scales, take
from inferplane.quantization.layer_rules import is_listed, name_list

__all__ = ["TorchAo"]

_Weight = Literal["int8", "fp8_e4m3"]
_Activation = Literal["", "int8", "fp8_e4m3"]
_KINDS: Mapping[str, tuple[_Weight, _Activation]] = {
    "Int8WeightOnlyConfig": ("int8", ""),
    "Int8DynamicActivationInt8WeightConfig": ("int8", "int8"),
    "Float8WeightOnlyConfig": ("fp8_e4m3", ""),
    "Float8DynamicActivationFloat8WeightConfig": ("fp8_e4m3", "fp8_e4m3"),
}
_DTYPES = {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn}


class TorchAo(QuantFormat):
    """quant_method "torchao"; version 2 of its configurations."""

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = CheckedKeys("quantization_config", config)
        default = keys.mapping("quant_type").get("default")
        kind = default.get("_type") if isinstance(default, dict) else default
        known = _KINDS.get(kind) if isinstance(kind, str) else None
        if known is None or not isinstance(default, dict):
            raise ConfigError(
                f"quantization_config: torchao's {kind!r} is not served (accepted: "
                f"{', '.join(_KINDS)})"
            )
        if default.get("_version") != 2:
            raise ConfigError(
                f"quantization_config: {kind} of version {default.get('_version')!r} is not "
                "served, 2 is: save the model again with torchao 0.15 or later"
            )
        self._weight, self._activation = known
        where = "quantization_config: modules_to_not_convert"
        self._kept = ("lm_head", *name_list(where, keys.find("modules_to_not_convert")))

    def scheme(self, layer: str) -> QuantScheme | None:
        if is_listed(layer, self._kept):
            return None
        return QuantScheme(self._weight, activation=self._activation)

    def tensors(self, layer: str) -> tuple[str, ...]:
        parts = ["qdata", "scale"] + (["zero_point"] if self._weight == "int8" else [])
        return tuple(f"{layer}._weight_{part}" for part in parts)

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        values = take(tensors, f"{layer}._weight_qdata", (_DTYPES[self._weight],), 2)
        scales = expand_scales(f"{layer}._weight_scale", tensors, values.shape)
        if scales.shape[1] != 1:
            raise ModelError(
                f"tensor '{layer}._weight_scale': {scales.shape[1]} scales for an output, 1 is "
                "served"
            )
        zeros = tensors.get(f"{layer}._weight_zero_point")
        if zeros is not None and bool(zeros.any()):
            raise ModelError(f"tensor '{layer}._weight_zero_point' is not 0: asymmetric int8")
        return CanonicalWeight(values, scales)
