"""GGUF's block types as a format: the weights stay in their blocks' integers.

The checkpoint's reader states the type of each layer; one tensor a layer, u8[O, bytes of a row].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import take
from inferplane.quantization.ggml_blocks import BLOCK_SHAPES, read_blocks

__all__ = ["Gguf"]

_EXPERT = re.compile(r"\.experts\.\d+\.")
_CENTRE = 8
"""Of four-bit codes that count from 0."""


class Gguf(QuantFormat):
    """quant_method "gguf", with "types": layer -> ggml type name, "*" standing for every expert."""

    loads_dense: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, object]) -> None:
        types = config.get("types")
        if not isinstance(types, dict):
            raise ConfigError("quantization_config: gguf states no types of its layers")
        self._types: dict[str, str] = {
            layer: kind for layer, kind in types.items() if kind in BLOCK_SHAPES
        }

    def scheme(self, layer: str) -> QuantScheme | None:
        kind = self._kind(layer)
        if kind is None:
            return None
        shape = BLOCK_SHAPES[kind]
        return QuantScheme(
            "int4" if shape.bits == 4 else "int8", group=shape.group, offset=shape.has_mins
        )

    def tensors(self, layer: str) -> tuple[str, ...]:
        return (f"{layer}.weight",)

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        kind = self._kind(layer)
        assert kind is not None, "asked for a layer that is not quantised"
        elements, block_bytes = GGML_BLOCKS[kind]
        name = f"{layer}.weight"
        raw = take(tensors, name, (torch.uint8,), 2)
        rows, row_bytes = raw.shape
        if row_bytes % block_bytes:
            raise ModelError(f"tensor {name!r}: rows of {row_bytes} bytes are no {kind} blocks")
        codes, scales, mins = read_blocks(kind, raw.reshape(-1, block_bytes))
        in_features = row_bytes // block_bytes * elements
        scales = scales.reshape(rows, -1)
        offsets = None if mins is None else mins.reshape(rows, -1)
        # Codes that may reach 15 would not fit the canonical -8..7.
        if offsets is not None and BLOCK_SHAPES[kind].bits == 4:
            codes, offsets = codes - _CENTRE, offsets + _CENTRE * scales
        return CanonicalWeight(codes.view(rows, in_features), scales, offsets)

    def _kind(self, layer: str) -> str | None:
        """Of the layer, or of the stack of experts that it is part of."""
        return self._types.get(layer) or self._types.get(_EXPERT.sub(".experts.*.", layer))
