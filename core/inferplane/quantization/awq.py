"""AWQ checkpoints (arXiv:2306.00978): AutoAWQ's layouts "gemm" and "gemv".

gemm: qweight i32[I, O/8], qzeros i32[G, O/8], scales f16[G, O], codes of a word in the order
0 2 4 6 1 3 5 7. gemv: qweight i32[O, I/8], qzeros i32[O, Z], scales f16[O, 8Z], in natural order
and padded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import CanonicalWeight, QuantFormat, QuantScheme
from inferplane.quantization.canonical import take
from inferplane.quantization.layer_rules import is_listed, name_list
from inferplane.quantization.packing import unpack

__all__ = ["Awq"]

_CENTRE = 8
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the gemm layout keeps the codes of outputs 0, 1, …, 7."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class Awq(QuantFormat):
    """quant_method "awq"."""

    def __init__(self, config: Mapping[str, object]) -> None:
        keys = CheckedKeys("quantization_config", config)
        bits = keys.integer("bits", "w_bit", most=8, default=4)
        if bits != 4:
            raise ConfigError(f"quantization_config: AWQ with {bits} bits, accepted: 4")
        self._layout = keys.text("version", "gemm").lower()
        if self._layout not in ("gemm", "gemv"):
            raise ConfigError(
                f"quantization_config: AWQ layout {self._layout!r} is not served (accepted: gemm, "
                "gemv)"
            )
        group = keys.find("group_size", "q_group_size")
        group = 128 if group is None else group
        if type(group) is not int or not (group == -1 or 1 <= group <= 65_536):
            raise keys.fault("group_size", group, "-1 or a positive number")
        self._group = group
        self._offset = keys.flag("zero_point", True)
        self._kept = name_list(
            "quantization_config: modules_to_not_convert", keys.find("modules_to_not_convert")
        )

    def scheme(self, layer: str) -> QuantScheme | None:
        if layer.endswith("lm_head") or is_listed(layer, self._kept):
            return None
        return QuantScheme("int4", group=max(self._group, 0), offset=self._offset)

    def tensors(self, layer: str) -> tuple[str, ...]:
        parts = ("qweight", "qzeros", "scales") if self._offset else ("qweight", "scales")
        return tuple(f"{layer}.{part}" for part in parts)

    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        words = take(tensors, f"{layer}.qweight", (torch.int32,), 2)
        scales = take(tensors, f"{layer}.scales", _FLOATS, 2).float()
        zeros = take(tensors, f"{layer}.qzeros", (torch.int32,), 2) if self._offset else None
        if self._layout == "gemm":
            codes = _gemm_codes(words).t().contiguous()
            scales = scales.t().contiguous()
            zeros_OG = None if zeros is None else _gemm_codes(zeros).t()
        else:
            codes = unpack(words, 4, words.shape[1] * 8)
            groups = self._num_groups(codes.shape[1])
            scales = scales[:, :groups].contiguous()
            zeros_OG = None if zeros is None else unpack(zeros, 4, zeros.shape[1] * 8)[:, :groups]
        self._check(layer, codes, scales, zeros_OG)
        return CanonicalWeight(
            values=(codes.to(torch.int16) - _CENTRE).to(torch.int8),
            scales=scales,
            offsets=None if zeros_OG is None else (_CENTRE - zeros_OG.float()) * scales,
        )

    def _num_groups(self, in_features: int) -> int:
        return 1 if self._group <= 0 else -(-in_features // self._group)

    def _check(self, layer: str, codes: Tensor, scales: Tensor, zeros: Tensor | None) -> None:
        expected = (codes.shape[0], self._num_groups(codes.shape[1]))
        for part, found in (("scales", scales), ("qzeros", zeros)):
            if found is not None and tuple(found.shape) != expected:
                raise ModelError(
                    f"tensor '{layer}.{part}' unpacks to {list(found.shape)}, weights of "
                    f"{list(codes.shape)} in groups of {self._group} need {list(expected)}"
                )


def _gemm_codes(words: Tensor) -> Tensor:
    """u8[R, 8W] in the order of outputs."""
    codes = unpack(words, 4, words.shape[1] * 8).view(*words.shape, 8)
    return codes[..., list(_PLACES)].flatten(-2)
