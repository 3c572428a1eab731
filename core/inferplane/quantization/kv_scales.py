"""Static scales that a checkpoint brings for an 8-bit KV cache: for all heads, or one a head.

They are kept as the largest magnitude that was seen while calibrating, which means the same
whatever the codes of the cache reach: 448, 240 or 127. K KV heads of the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ConfigError, ModelError

__all__ = ["KVScales", "Which"]

Which: TypeAlias = Literal["keys", "values"]

_SPELLINGS: Mapping[str, tuple[Which, ...]] = {
    "k_scale": ("keys",),
    "v_scale": ("values",),
    "attn.k_scale": ("keys",),
    "attn.v_scale": ("values",),
    "k_proj.k_scale": ("keys",),
    "v_proj.v_scale": ("values",),
    "k_proj.output_scale": ("keys",),
    "v_proj.output_scale": ("values",),
    "kv_scale": ("keys", "values"),
}
"""What tools call them, behind the attention layer's name: compressed-tensors, vLLM, ModelOpt, and
compressed-tensors before it knew KV schemes."""
_OFFSETS = ("k_zero_point", "v_zero_point")
_LARGEST_CODE = {"float": 448.0, "int": 127.0}
_EIGHT_BITS = ("int8", "fp8")


class KVScales:
    """Collects the scales of every attention layer while the weights are read."""

    def __init__(self, quantization: Mapping[str, object], kv_dtype: str) -> None:
        """`quantization` = the checkpoint's quantization_config, whose kv_cache_scheme says what
        the scales were made for (fp8 where it says nothing); `kv_dtype` = what is asked for.

        Raises ConfigError when an 8-bit cache is asked for and the scheme is none for 8 bits.
        """
        keys = CheckedKeys("quantization_config", quantization)
        scheme = CheckedKeys(f"{keys.where}: kv_cache_scheme", keys.mapping("kv_cache_scheme"))
        kind = scheme.text("type", "float")
        if kind not in _LARGEST_CODE:
            raise scheme.fault("type", kind, "int or float")
        self._largest_code = _LARGEST_CODE[kind]
        self._found: dict[tuple[str, Which], tuple[float, ...]] = {}
        bits = scheme.integer("num_bits", most=32, default=8)
        if kv_dtype in _EIGHT_BITS and (bits != 8 or not scheme.flag("symmetric", True)):
            raise ConfigError(
                f"{scheme.where}: scales of {bits} bits"
                f"{'' if scheme.flag('symmetric', True) else ' with zero points'} cannot serve "
                f"kv_dtype {kv_dtype}, symmetric ones of 8 can: leave out --kv-dtype"
            )

    @staticmethod
    def names(layer: str) -> tuple[str, ...]:
        """Every tensor that may hold a scale of the attention layer of that name."""
        return tuple(f"{layer}.{ending}" for ending in _SPELLINGS)

    @staticmethod
    def offset_names(layer: str) -> tuple[str, ...]:
        """Tensors of zero points, which symmetric schemes store as zeros if at all."""
        return tuple(f"{layer}.{ending}" for ending in _OFFSETS)

    def put(self, layer: str, name: str, num_heads: int, scale: Tensor) -> None:
        """Take one of `names(layer)`: a number, or [K] and dimensions of 1 behind it.

        Raises ModelError for scales of another shape, for those that are no positive numbers, and
        for two that contradict each other.
        """
        if not scale.is_floating_point() or scale.numel() not in (1, num_heads):
            raise ModelError(
                f"tensor {name!r} is {list(scale.shape)} of {scale.dtype}: a KV scale is one "
                f"number, or one for each of {num_heads} heads"
            )
        wide = scale.detach().to("cpu", torch.float64).flatten()
        if not bool((torch.isfinite(wide) & (wide > 0)).all()):
            raise ModelError(f"tensor {name!r} holds KV scales that are no positive numbers")
        largest = tuple((wide * self._largest_code).expand(num_heads).tolist())
        for which in _SPELLINGS[name.removeprefix(f"{layer}.")]:
            if self._found.setdefault((layer, which), largest) != largest:
                raise ModelError(f"tensor {name!r}: another scale for the same {which} differs")

    def largest(self, layer: str, which: Which, heads: range) -> tuple[float, ...]:
        """The largest magnitude for each of these KV heads; () where the checkpoint says none."""
        found = self._found.get((layer, which), ())
        return tuple(found[head] for head in heads) if found else ()
