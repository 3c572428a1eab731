"""int4, int8 and fp8 weights widened inside the product: the bytes read are those of the codes.

T tokens, O outputs, I inputs, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from inferplane.interfaces import (
    CanonicalWeight,
    Capabilities,
    DeviceRuntime,
    LinearSite,
    QuantKernel,
    QuantScheme,
    Reasons,
)
from inferplane.quantization.reference import requantize_input
from inferplane_triton.device.quantized import (
    stream_bytes,
    stream_words,
    tile_codes,
    widen_codes,
)
from inferplane_triton.device.stacks import multiply_stack
from inferplane_triton.kernels.stacks import Routes, multiply_widened
from inferplane_triton.tuning import code_tuning, target, tile_tuning

__all__ = ["STREAMED_ROWS", "WeightOnly"]

STREAMED_ROWS = 4
_WIDENED_ROWS = 17
"""From here on the vendor's product repays a copy of the weights in high precision: on an H200 64
rows took 13 times bfloat16's time in tiles, which widen them again for each tile of rows."""
_WIDENED_EACH = 8
"""Likewise, rows that each expert of a stack has on average: tiles of few rows are bound by how
fast codes are widened."""
_TILE_COLS = 64
_REPACKED_ROWS = 1 << 16
"""At once: what widens them takes twelve times their room."""
_CODES = ("int4", "int8", "fp8_e4m3")


class WeightOnly(QuantKernel):
    """Up to 4 rows stream the codes, more go through matrix instructions."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        self._scheme = scheme
        self._site = site
        self._bytes = scheme.weight != "int4"
        self._group = scheme.group if scheme.group > 0 else site.in_features
        self._power = _power_of_two_in(site.in_features // 8)
        self._rounds = scheme.activation == "fp8_e4m3" and scheme.activation_scale != "tensor"
        self._target = target()
        self._interpreted = self._target.backend == "interpreter"
        self._upcast = self._interpreted and site.dtype == "bfloat16"

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """16-bit activations, groups that hold 32 inputs or more."""
        reasons = []
        if scheme.weight not in _CODES:
            reasons.append(f"has no codes for {scheme.weight}")
        if scheme.weight == "fp8_e4m3" and caps.fp8 != "e4m3fn":
            reasons.append(f"reads fp8 as e4m3fn, this device has {caps.fp8}")
        if site.dtype not in ("bfloat16", "float16"):
            reasons.append(f"multiplies 16-bit activations, not {site.dtype}")
        if site.num_experts and (scheme.reordered or scheme.activation_scale == "static"):
            reasons.append("has no stacks of experts with orders or input scales of their own")
        group = scheme.group if scheme.group > 0 else site.in_features
        if _power_of_two_in(group) < 32:
            reasons.append(f"{group} inputs share a scale: needs a multiple of 32")
        if site.in_features % group:
            reasons.append(f"{site.in_features} inputs are no whole groups of {group}")
        return tuple(reasons)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Codes [O,I], 4-bit ones as i32 [O,I/8]; scales and offsets f32 [O,G]. Of a stack matrix
        after matrix."""
        values = weight.values.flatten(0, -2)
        codes = values if self._bytes else _words(values)
        outputs = weight.values.shape[:-1]
        packed = {"codes": codes.contiguous(), "scales": _rows(weight.scales, outputs)}
        if weight.offsets is not None:
            packed["offsets"] = _rows(weight.offsets, outputs)
        if weight.order is not None:
            packed["order"] = weight.order
        if weight.input_scale is not None:
            packed["input_scale"] = weight.input_scale.float().reshape(1)
        return packed

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O]; activations are rounded first where the scheme says so."""
        streams = len(x) <= STREAMED_ROWS
        if not (streams and self._rounds):
            x = requantize_input(x, self._scheme, packed.get("input_scale"))
        if "order" in packed:
            x = x.index_select(1, packed["order"])
        if x.stride(1) != 1:
            x = x.contiguous()
        if len(x) >= _WIDENED_ROWS:
            return F.linear(x, self._widened(packed, x.dtype), bias)
        out = torch.empty((len(x), self._site.out_features), dtype=x.dtype, device=x.device)
        if streams:
            self._stream(x, packed, bias, out)
        else:
            self._tile(x, packed, bias, out)
        return out

    def apply_each(self, x: Tensor, packed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """x[R,I] and ids i32[R,k] -> [R*k,O]; activations are rounded first where the scheme says
        so. Codes are widened in tiles, or, for many rows of an expert, all at once before."""
        x = requantize_input(x, self._scheme, None).contiguous()
        outputs, experts, scales = self._site.out_features, self._site.num_experts, packed["scales"]
        out = torch.empty((ids.numel(), outputs), dtype=x.dtype, device=x.device)
        if not len(out):
            return out
        routes = Routes.of(ids, experts)
        if routes.average >= _WIDENED_EACH:
            return multiply_widened(x, self._widened(packed, x.dtype), routes)
        tuning = tile_tuning(self._target, routes.average)
        tiles = len(out) // tuning.rows + min(experts, len(out))
        multiply_stack[(triton.cdiv(outputs, _TILE_COLS), tiles)](
            x, packed["codes"], scales, packed.get("offsets", scales), routes.order, routes.counts,
            out, outputs, CHOICES=routes.choices, EXPERTS=experts,
            E_PAD=int(triton.next_power_of_2(experts)), INPUTS=x.shape[1], GROUP=self._group,
            WIDE=min(self._power, 8), ROWS=tuning.rows, COLS=_TILE_COLS, STEP=0, DENSE=False,
            BYTES=self._bytes, OFFSET="offsets" in packed, UPCAST=self._upcast,
            num_warps=tuning.warps, num_stages=tuning.stages,
        )  # fmt: skip
        return out

    def _stream(
        self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, out: Tensor
    ) -> None:
        scales, rows = packed["scales"], len(x)
        given = packed.get("input_scale") if self._rounds else None
        padded = int(triton.next_power_of_2(rows))
        tuning = code_tuning(self._bytes, padded)
        target_rows = out
        if padded != rows:  # three rows run as four
            x = F.pad(x, (0, 0, 0, padded - rows))
            target_rows = out.new_empty(padded, out.shape[1])
        grid = (triton.cdiv(out.shape[1], tuning.rows),)
        scale = scales, packed.get("offsets", scales)
        rest = scales if bias is None else bias, target_rows, x.stride(0), out.shape[1]
        fixed = {
            "INPUTS": x.shape[1], "GROUP": self._group, "M": padded, "ROWS": tuning.rows,
            "LANES": 32 * tuning.warps, "OFFSET": "offsets" in packed, "BIAS": bias is not None,
            "num_warps": tuning.warps,
        }  # fmt: skip
        if self._bytes:
            stream_bytes[grid](
                x, packed["codes"], *scale, scales if given is None else given, *rest,
                ROUND=self._rounds, GIVEN=given is not None, BY_BITS=self._interpreted, **fixed,
            )  # fmt: skip
        else:
            stream_words[grid](x, packed["codes"], *scale, *rest, **fixed)
        if target_rows is not out:
            out.copy_(target_rows[:rows])

    def _tile(
        self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None, out: Tensor
    ) -> None:
        scales = packed["scales"]
        tuning, wide = tile_tuning(self._target, len(x)), _TILE_COLS
        grid = triton.cdiv(out.shape[1], wide), triton.cdiv(len(x), tuning.rows)
        tile_codes[grid](
            x, packed["codes"], scales, packed.get("offsets", scales),
            scales if bias is None else bias, out, x.stride(0), len(x), out.shape[1],
            INPUTS=x.shape[1], GROUP=self._group, WIDE=min(self._power, 8), BM=tuning.rows, BN=wide,
            BYTES=self._bytes, OFFSET="offsets" in packed, BIAS=bias is not None,
            UPCAST=self._upcast, num_warps=tuning.warps, num_stages=tuning.stages,
        )  # fmt: skip

    def _widened(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """[O,I] in `dtype`: gone again after the product."""
        scales, inputs = packed["scales"], self._site.in_features
        out = torch.empty((len(scales), inputs), dtype=dtype, device=scales.device)
        wide = min(self._power, _power_of_two_in(self._group), 64)
        widen_codes[(triton.cdiv(len(scales), 8), inputs // (8 * wide))](
            packed["codes"], scales, packed.get("offsets", scales), out, len(scales),
            INPUTS=inputs, GROUP=self._group, WIDE=wide, ROWS=8, BYTES=self._bytes,
            OFFSET="offsets" in packed, num_warps=4,
        )  # fmt: skip
        return out


def _words(values: Tensor) -> Tensor:
    """Codes i8[O,I] -> i32[O,I/8]: eight a word, as `device.quantized` says."""
    made = []
    for first in range(0, len(values), _REPACKED_ROWS):
        rows = values[first : first + _REPACKED_ROWS]
        nibbles = (rows.to(torch.int32) + 8).view(len(rows), 8, -1)
        words = nibbles[:, 0].clone()
        for place in range(1, 8):
            words |= nibbles[:, place] << (4 * place)
        made.append(words)
    return torch.cat(made)


def _rows(part: Tensor, outputs: torch.Size) -> Tensor:
    """[O,G], also where one scale serves all outputs; [E*O,G] of a stack."""
    each = part.float().reshape(*outputs[:-1], -1, part.shape[-1])
    return each.expand(*outputs, -1).flatten(0, -2).contiguous()


def _power_of_two_in(size: int) -> int:
    """The largest power of two that divides `size`."""
    return size & -size
