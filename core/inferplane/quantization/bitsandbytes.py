"""Checkpoints of bitsandbytes: LLM.int8 (arXiv:2208.07339) and four bits, nf4 or fp4 (2305.14314).

int8: `layer`.weight i8[O,I] with SCB f32[O]. Four bits: `layer`.weight u8[O*I/2, 1], the first code
of a byte in its high half, with weight.absmax for runs of the flattened matrix, weight.quant_map
f32[16] and weight.quant_state.bitsandbytes__nf4, JSON as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.checkpoint.files import parse_object
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import take
from inferplane.quantization.layer_rules import is_listed, name_list

__all__ = ["BitsAndBytes"]

_BLOCK = 64
"""Elements sharing a scale: what every published checkpoint uses."""
_LEVELS = 127
"""The sixteen uneven levels become int8 codes: off by at most 0.4 % of the largest weight."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the checkpoint says of one four-bit matrix."""

    rows: int
    columns: int
    nested_block: int
    offset: float


class BitsAndBytes(QuantFormat):
    """quant_method "bitsandbytes"."""

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = CheckedKeys("quantization_config", config)
        self._kind = keys.text("bnb_4bit_quant_type", "nf4")
        self._is_int8 = keys.flag("load_in_8bit", False)
        if self._is_int8 == keys.flag("load_in_4bit", False):
            raise ConfigError(
                "quantization_config: bitsandbytes needs one of load_in_4bit and load_in_8bit"
            )
        if not self._is_int8 and self._kind not in ("nf4", "fp4"):
            raise keys.fault("bnb_4bit_quant_type", self._kind, "nf4 or fp4")
        self._nested = keys.flag("bnb_4bit_use_double_quant", False)
        self._kept = name_list(
            "quantization_config: llm_int8_skip_modules", keys.find("llm_int8_skip_modules")
        )

    def scheme(self, layer: str) -> QuantScheme | None:
        if layer.endswith("lm_head") or is_listed(layer, self._kept):
            return None
        return QuantScheme("int8", group=0 if self._is_int8 else _BLOCK)

    def tensors(self, layer: str) -> tuple[str, ...]:
        if self._is_int8:
            return f"{layer}.weight", f"{layer}.SCB", f"{layer}.weight_format"
        parts = ["absmax", "quant_map", f"quant_state.bitsandbytes__{self._kind}"]
        parts += ["nested_absmax", "nested_quant_map"] if self._nested else []
        return (f"{layer}.weight", *(f"{layer}.weight.{part}" for part in parts))

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        if self._is_int8:
            values = take(tensors, f"{layer}.weight", (torch.int8,), 2)
            scales = take(tensors, f"{layer}.SCB", (torch.float32,), 1)
            return CanonicalWeight(values, (scales / _LEVELS)[:, None])
        return self._four_bits(f"{layer}.weight", tensors)

    def _four_bits(self, name: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        raw = take(tensors, name, (torch.uint8,), 2).flatten()
        state = self._state(name, tensors)
        rows, columns = state.rows, state.columns
        if rows * columns != 2 * raw.numel() or columns % _BLOCK:
            raise ModelError(
                f"tensor {name!r}: {raw.numel()} bytes are no matrix [{rows}, {columns}] in blocks "
                f"of {_BLOCK}"
            )
        levels = take(tensors, f"{name}.quant_map", (torch.float32,), 1)
        if levels.shape[0] != 16 or not bool((levels.abs() <= 1).all()):
            raise ModelError(f"tensor '{name}.quant_map' is no table of 16 numbers from -1 to 1")
        codes = torch.stack((raw >> 4, torch.bitwise_and(raw, 15)), 1).view(rows, columns)
        values = (levels * _LEVELS).round().to(torch.int8)[codes.int()]
        scales = self._scales(name, tensors, state, rows * columns // _BLOCK)
        return CanonicalWeight(values, scales.view(rows, -1) / _LEVELS)

    def _state(self, name: str, tensors: Mapping[str, Tensor]) -> _State:
        where = f"{name}.quant_state.bitsandbytes__{self._kind}"
        packed = take(tensors, where, (torch.uint8,), 1)
        keys = CheckedKeys(where, parse_object(bytes(packed.tolist()), where))
        if keys.integer("blocksize", most=65_536) != _BLOCK:
            raise keys.fault("blocksize", keys.find("blocksize"), f"{_BLOCK}")
        offset = keys.find("nested_offset") or 0.0
        if not isinstance(offset, int | float) or abs(offset) > 1e6:
            raise keys.fault("nested_offset", offset, "a number")
        shape = keys.find("shape")
        match shape:
            case [int(rows), int(columns)] if 0 < rows < 2**31 and 0 < columns < 2**31:
                nested = keys.integer("nested_blocksize", most=65_536, default=256)
                return _State(rows, columns, nested, float(offset))
        raise keys.fault("shape", shape, "two positive numbers")

    def _scales(
        self, name: str, tensors: Mapping[str, Tensor], state: _State, count: int
    ) -> Tensor:
        """f32[count]: the largest magnitude of each block, itself quantised where nested."""
        if not self._nested:
            scales = take(tensors, f"{name}.absmax", (torch.float32,), 1)
        else:
            codes = take(tensors, f"{name}.absmax", (torch.uint8,), 1)
            levels = take(tensors, f"{name}.nested_quant_map", (torch.float32,), 1)
            sizes = take(tensors, f"{name}.nested_absmax", (torch.float32,), 1)
            wide = sizes.repeat_interleave(state.nested_block)[: codes.shape[0]]
            if levels.shape[0] != 256 or wide.shape != codes.shape:
                raise ModelError(f"tensor '{name}.nested_absmax' does not fit '{name}.absmax'")
            scales = levels[codes.int()] * wide + state.offset
        if scales.shape[0] != count:
            raise ModelError(
                f"tensor '{name}.absmax' has {scales.shape[0]} entries, the layer {count} blocks"
            )
        return scales
