"""Checkpoints of compressed-tensors (llm-compressor): integers packed or plain, and fp8.

`layer`.weight_packed i32[O, I*bits/32] with weight_shape, or `layer`.weight i8 or fp8 [O,I];
weight_scale [1], [O,1], [O,G] or by blocks; weight_zero_point; weight_g_idx; input_scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import expand_scales, order_of_groups, take
from inferplane.quantization.layer_rules import compile_pattern, is_listed, name_list
from inferplane.quantization.packing import packed_words, unpack

__all__ = ["CompressedTensors"]

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
STRATEGIES = ("tensor", "channel", "group", "block")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_Activation = Literal["", "int8", "fp8_e4m3"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """One entry of config_groups."""

    targets: tuple[str, ...]
    packed: bool
    bits: int
    is_float: bool
    symmetric: bool
    strategy: str
    group: int
    block_rows: int
    reordered: bool
    activation: _Activation
    activation_scale: Literal["token", "tensor", "static"]


class CompressedTensors(QuantFormat):
    """quant_method "compressed-tensors"."""

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = CheckedKeys("quantization_config", config)
        sparsity = keys.mapping("sparsity_config").get("format", "dense")
        if sparsity != "dense":
            raise ConfigError(
                f"quantization_config: sparse weights ({sparsity!r}) are not served; export the "
                "model without sparsity compression"
            )
        self._kept = name_list("quantization_config: ignore", keys.find("ignore"))
        groups = keys.mapping("config_groups")
        if not groups and not keys.mapping("kv_cache_scheme"):
            raise keys.fault("config_groups", groups, "an object with at least one group")
        layout = keys.text("format", "")
        self._rules = [_rule(name, group, layout) for name, group in groups.items()]

    def scheme(self, layer: str) -> QuantScheme | None:
        rule = self._find(layer)
        if rule is None:
            return None
        group = rule.group if rule.strategy in ("group", "block") else 0
        if rule.is_float:
            return QuantScheme(
                "fp8_e4m3",
                group=group,
                activation=rule.activation,
                activation_scale=rule.activation_scale,
            )
        return QuantScheme(
            "int4" if rule.bits <= 4 else "int8",
            group=group,
            offset=not rule.symmetric,
            reordered=rule.reordered,
            activation=rule.activation,
            activation_scale=rule.activation_scale,
        )

    def tensors(self, layer: str) -> tuple[str, ...]:
        rule = self._find(layer)
        assert rule is not None, "asked for a layer that is not quantised"
        parts = ["weight_packed", "weight_shape"] if rule.packed else ["weight"]
        parts.append("weight_scale")
        if not rule.symmetric:
            parts.append("weight_zero_point")
        if rule.reordered:
            parts.append("weight_g_idx")
        if rule.activation and rule.activation_scale == "static":
            parts.append("input_scale")
        return tuple(f"{layer}.{part}" for part in parts)

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        rule = self._find(layer)
        assert rule is not None, "asked for a layer that is not quantised"
        values = (
            _packed_values(layer, tensors, rule) if rule.packed else _values(layer, tensors, rule)
        )
        scales = expand_scales(
            f"{layer}.weight_scale",
            tensors,
            values.shape,
            rule.block_rows if rule.strategy == "block" else 0,
        )
        order = None
        if rule.reordered:
            name = f"{layer}.weight_g_idx"
            group_of_input = take(tensors, name, (torch.int32, torch.int64), 1)
            order = order_of_groups(name, group_of_input, rule.group)
            values = values[:, order.long()]
        zeros = None if rule.symmetric else _zeros(layer, tensors, rule, scales)
        input_scale = tensors.get(f"{layer}.input_scale")
        return CanonicalWeight(
            values=values,
            scales=scales,
            offsets=None if zeros is None else -zeros * scales,
            order=order,
            input_scale=None if input_scale is None else input_scale.float().reshape(1),
        )

    def _find(self, layer: str) -> _Rule | None:
        """The group that names the layer most closely: itself, then a pattern, then all linears."""
        if is_listed(layer, self._kept):
            return None
        for matches in (_names, _fits_pattern, _names_class):
            for rule in self._rules:
                if any(matches(layer, target) for target in rule.targets):
                    return rule
        return None


def _rule(name: str, group: object, layout: str) -> _Rule:
    where = f"quantization_config: config_groups: {name}"
    if not isinstance(group, dict):
        raise ModelError(f"{where} is no object")
    outer = CheckedKeys(where, group)
    layout = outer.text("format", layout)
    if layout not in FORMATS:
        raise ConfigError(
            f"{where}: format {layout!r} is not served (accepted: {', '.join(FORMATS)})"
        )
    if outer.find("output_activations") is not None:
        raise ConfigError(f"{where}: quantised outputs of layers are not served")
    keys = CheckedKeys(f"{where}: weights", outer.mapping("weights"))
    bits = keys.integer("num_bits", most=8)
    is_float = _is_float(keys)
    if is_float and bits != 8:
        raise ConfigError(f"{where}: floating-point weights of {bits} bits are not served, 8 are")
    strategy = keys.text("strategy", "group" if keys.find("group_size") else "tensor")
    if strategy not in STRATEGIES:
        raise keys.fault("strategy", strategy, f"one of {', '.join(STRATEGIES)}")
    rows, columns = _block(keys) if strategy == "block" else (0, 0)
    size = keys.integer("group_size", most=65_536) if strategy == "group" else columns
    activation, scale = _activation(where, outer)
    symmetric = keys.flag("symmetric", True)
    if is_float and not symmetric:
        raise ConfigError(f"{where}: asymmetric fp8 weights are not served")
    return _Rule(
        targets=name_list(f"{where}: targets", outer.find("targets")),
        packed=layout == "pack-quantized",
        bits=bits,
        is_float=is_float,
        symmetric=symmetric,
        strategy=strategy,
        group=size,
        block_rows=rows,
        reordered=keys.find("actorder") in ("group", "dynamic", True),
        activation=activation,
        activation_scale=scale,
    )


def _is_float(keys: CheckedKeys) -> bool:
    kind = keys.text("type", "int")
    if kind not in ("int", "float"):
        raise keys.fault("type", kind, "int or float")
    return kind == "float"


def _block(keys: CheckedKeys) -> tuple[int, int]:
    block = keys.find("block_structure")
    if isinstance(block, str):
        block = [int(part) if part.isdigit() else 0 for part in block.split("x")]
    match block:
        case [int(rows), int(columns)] if 0 < rows <= 65_536 and 0 < columns <= 65_536:
            return rows, columns
    raise keys.fault("block_structure", block, "two positive numbers")


def _activation(
    where: str, group: CheckedKeys
) -> tuple[_Activation, Literal["token", "tensor", "static"]]:
    found = group.mapping("input_activations")
    if not found:
        return "", "token"
    keys = CheckedKeys(f"{where}: input_activations", found)
    if keys.integer("num_bits", most=32, default=8) != 8 or not keys.flag("symmetric", True):
        raise ConfigError(f"{keys.where}: only symmetric activations of 8 bits are served")
    kind: _Activation = "fp8_e4m3" if _is_float(keys) else "int8"
    strategy = keys.text("strategy", "tensor")
    if strategy not in ("tensor", "token", "group"):
        raise keys.fault("strategy", strategy, "tensor, token or group")
    if strategy == "tensor":
        return kind, "tensor" if keys.find("dynamic") else "static"
    # A scale for each token's group of inputs is served by one for each token.
    return kind, "token"


def _names(layer: str, target: str) -> bool:
    return layer == target


def _fits_pattern(layer: str, target: str) -> bool:
    if not target.startswith("re:"):
        return False
    return compile_pattern("quantization_config: targets", target[3:]).match(layer) is not None


def _names_class(layer: str, target: str) -> bool:
    return target == "Linear"


def _values(layer: str, tensors: Mapping[str, Tensor], rule: _Rule) -> Tensor:
    dtype = torch.float8_e4m3fn if rule.is_float else torch.int8
    return take(tensors, f"{layer}.weight", (dtype,), 2)


def _packed_values(layer: str, tensors: Mapping[str, Tensor], rule: _Rule) -> Tensor:
    name = f"{layer}.weight_packed"
    words = take(tensors, name, (torch.int32,), 2)
    shape = take(tensors, f"{layer}.weight_shape", (torch.int64, torch.int32), 1).tolist()
    if len(shape) != 2 or [shape[0], packed_words(shape[1], rule.bits)] != list(words.shape):
        raise ModelError(
            f"tensor {name!r} of shape {list(words.shape)} cannot hold weights of {shape} with "
            f"{rule.bits} bits"
        )
    codes = unpack(words, rule.bits, shape[1]).to(torch.int16)
    return torch.sub(codes, 2 ** (rule.bits - 1)).to(torch.int8)


def _zeros(layer: str, tensors: Mapping[str, Tensor], rule: _Rule, scales: Tensor) -> Tensor:
    """f32[O,G]"""
    name = f"{layer}.weight_zero_point"
    if rule.packed and rule.strategy in ("group", "channel"):
        words = take(tensors, name, (torch.int32,), 2)
        expected = [packed_words(scales.shape[0], rule.bits), scales.shape[1]]
        if list(words.shape) != expected:
            raise ModelError(f"tensor {name!r} has shape {list(words.shape)}, needs {expected}")
        codes = unpack(words.t().contiguous(), rule.bits, scales.shape[0]).t()
        signed: Tensor = codes.float() - 2 ** (rule.bits - 1)
        return signed
    found = tensors.get(name)
    if found is None or found.numel() not in (1, scales.shape[0], scales.numel()):
        raise ModelError(f"tensor {name!r} is missing or does not fit its scales")
    wide = found.float()
    return wide.reshape(1, 1) if wide.numel() == 1 else wide.reshape(scales.shape[0], -1)
