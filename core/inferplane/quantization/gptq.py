"""GPTQ checkpoints (arXiv:2210.17323): AutoGPTQ's and GPTQModel's packing, versions 1 and 2.

qweight i32[I*bits/32, O], qzeros i32[G, O*bits/32], scales f16[G, O], g_idx i32[I].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import order_of_groups, take
from inferplane.quantization.layer_rules import compile_pattern, name_list
from inferplane.quantization.packing import pack, packed_words, unpack

__all__ = ["Gptq"]

BITS = (2, 3, 4, 8)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True)
class _Rule:
    bits: int
    group: int
    """-1 = all inputs."""
    symmetric: bool
    reordered: bool


class Gptq(QuantFormat):
    """quant_method "gptq"."""

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = CheckedKeys("quantization_config", config)
        layout = keys.text("checkpoint_format", keys.text("format", "gptq"))
        if layout not in ("gptq", "gptq_v2"):
            raise ConfigError(
                f"quantization_config: GPTQ layout {layout!r} is not served (accepted: gptq, "
                "gptq_v2); export the model again in one of them"
            )
        self._stores_one_less = layout == "gptq"
        self._rule = _rule(keys, None)
        self._has_head = keys.flag("lm_head", False)
        self._only = [
            name
            for block in _blocks(keys.find("modules_in_block_to_quantize"))
            for name in name_list("quantization_config: modules_in_block_to_quantize", block)
        ]
        self._special = _special_rules(keys)

    def scheme(self, layer: str) -> QuantScheme | None:
        rule = self._rule_of(layer)
        if rule is None:
            return None
        return QuantScheme(
            weight="int8" if rule.bits == 8 else "int4",
            group=max(rule.group, 0),
            offset=not rule.symmetric,
            reordered=rule.reordered and rule.group > 0,
        )

    def tensors(self, layer: str) -> tuple[str, ...]:
        return tuple(f"{layer}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        rule = self._rule_of(layer)
        assert rule is not None, "asked for a layer that is not quantised"
        name = f"{layer}.scales"
        scales_GO = take(tensors, name, _FLOATS, 2).float()
        words = take(tensors, f"{layer}.qweight", (torch.int32,), 2)
        groups, out_features = scales_GO.shape
        in_features = words.shape[0] * 32 // rule.bits
        self._check_groups(name, rule, groups, in_features)
        if words.shape[1] != out_features:
            raise ModelError(
                f"tensor '{layer}.qweight' has {words.shape[1]} outputs, {name!r} has "
                f"{out_features}"
            )
        centre = 2 ** (rule.bits - 1)
        codes = unpack(words.t().contiguous(), rule.bits, in_features)
        values = (codes.to(torch.int16) - centre).to(torch.int8)
        zeros_OG = self._zeros(layer, tensors, rule, scales_GO)
        scales = scales_GO.t().contiguous()
        order = self._order(layer, tensors, rule, in_features)
        return CanonicalWeight(
            values=values if order is None else values[:, order.long()],
            scales=scales,
            offsets=None if zeros_OG is None else (centre - zeros_OG) * scales,
            order=order,
        )

    def _rule_of(self, layer: str) -> _Rule | None:
        if layer == "lm_head" or layer.endswith(".lm_head"):
            return self._rule if self._has_head else None
        if self._only and not any(layer.endswith(name) for name in self._only):
            return None
        for pattern, rule in self._special:
            if pattern.match(layer):
                return rule
        return self._rule

    def _check_groups(self, name: str, rule: _Rule, groups: int, in_features: int) -> None:
        expected = 1 if rule.group <= 0 else -(-in_features // rule.group)
        if groups != expected:
            raise ModelError(
                f"tensor {name!r} has {groups} groups, {in_features} inputs in groups of "
                f"{rule.group} need {expected}"
            )

    def _zeros(
        self, layer: str, tensors: Mapping[str, Tensor], rule: _Rule, scales_GO: Tensor
    ) -> Tensor | None:
        """Zero points f32[O,G], or None where they are the centre, as symmetric layers promise."""
        name = f"{layer}.qzeros"
        words = take(tensors, name, (torch.int32,), 2)
        groups, out_features = scales_GO.shape
        if tuple(words.shape) != (groups, packed_words(out_features, rule.bits)):
            raise ModelError(
                f"tensor {name!r} has shape {list(words.shape)}, {groups} groups of "
                f"{out_features} outputs need [{groups}, {packed_words(out_features, rule.bits)}]"
            )
        if self._stores_one_less:
            words = _plus_one(words, rule.bits)
        zeros_GO = unpack(words, rule.bits, out_features)
        if not rule.symmetric:
            return zeros_GO.t().float()
        if bool((zeros_GO != 2 ** (rule.bits - 1)).any()):
            raise ModelError(
                f"tensor {name!r} holds zero points off the centre, although quantization_config "
                "says sym: true"
            )
        return None

    def _order(
        self,
        layer: str,
        tensors: Mapping[str, Tensor],
        rule: _Rule,
        in_features: int,
    ) -> Tensor | None:
        name = f"{layer}.g_idx"
        if rule.group <= 0 or (name not in tensors and not rule.reordered):
            return None
        group_of_input = take(tensors, name, (torch.int32, torch.int64), 1)
        if group_of_input.shape[0] != in_features:
            raise ModelError(
                f"tensor {name!r} has {group_of_input.shape[0]} entries, the layer has "
                f"{in_features} inputs"
            )
        order = order_of_groups(name, group_of_input, rule.group)
        if rule.reordered:
            return order
        if not torch.equal(order.long(), torch.arange(in_features, device=order.device)):
            raise ModelError(
                f"tensor {name!r} reorders inputs, although quantization_config says "
                "desc_act: false"
            )
        return None


def _plus_one(words: Tensor, bits: int) -> Tensor:
    """One more in every code: version 1 stores zero points minus one.

    GPTQModel subtracts whole words, so that a zero point of 0 borrows from its neighbour: the sum
    of words gives the loan back. Codes of 3 bits do not fill words; there each is added apart.
    """
    if 32 % bits:
        count = words.shape[1] * 32 // bits
        return pack((unpack(words, bits, count) + 1) & (2**bits - 1), bits)
    ones = sum(1 << place for place in range(0, 32, bits))
    total = ((words.long() & 0xFFFFFFFF) + ones) & 0xFFFFFFFF
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32)


def _rule(keys: CheckedKeys, base: _Rule | None) -> _Rule:
    bits = keys.integer("bits", most=8, default=base.bits if base else None)
    if bits not in BITS:
        raise keys.fault("bits", bits, "one of 2, 3, 4, 8")
    group = keys.find("group_size")
    group = (base.group if base else 128) if group is None else group
    if type(group) is not int or not (group == -1 or 1 <= group <= 65_536):
        raise keys.fault("group_size", group, "-1 or a positive number")
    return _Rule(
        bits,
        group,
        keys.flag("sym", base.symmetric if base else True),
        keys.flag("desc_act", base.reordered if base else False),
    )


def _special_rules(keys: CheckedKeys) -> list[tuple[re.Pattern[str], _Rule | None]]:
    """GPTQModel's `dynamic`: pattern -> other numbers, or None for "-:": not quantised."""
    found: list[tuple[re.Pattern[str], _Rule | None]] = []
    for pattern, changes in keys.mapping("dynamic").items():
        where = "quantization_config: dynamic"
        compiled = compile_pattern(where, pattern.removeprefix("+:").removeprefix("-:"))
        if pattern.startswith("-:"):
            found.append((compiled, None))
        elif isinstance(changes, dict):
            found.append((compiled, _rule(CheckedKeys(where, changes), _rule(keys, None))))
        else:
            raise keys.fault("dynamic", changes, "objects with the changed numbers")
    return found


def _blocks(value: object) -> list[object]:
    """modules_in_block_to_quantize is a list of lists, or one list."""
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        return value
    return [value] if value else []
