"""Quantisation kernels: few rows stream the codes, many go to the vendor's product.

T tokens, O outputs, I inputs, G groups; k experts of a row, out of E.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
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
from inferplane.ops.reference.quantize import quantize_activation, quantize_with
from inferplane_cuda.persistent.instructions import Matrix, Weights
from inferplane_cuda.persistent.launcher import longest_row
from inferplane_cuda.persistent.tape import settle, tape_for
from inferplane_cuda.programs import compiler_problem
from inferplane_cuda.quantization import packing, stream
from inferplane_triton.gpu.runtime import GpuRuntime
from inferplane_triton.kernels.stacks import Routes, multiply_widened
from inferplane_triton.quantization.int8 import Int8Activations
from inferplane_triton.quantization.scaled import ScaledFp8, round_to_fp8
from inferplane_triton.quantization.weight_only import WeightOnly

__all__ = ["StreamedFp8", "StreamedInt8", "StreamedWeights"]

_WIDENED_ROWS = 128
"""From here on the vendor's product repays a copy of the weights in 16 bits."""
_SCALED_ROWS = 32
"""Likewise for its product of fp8 by fp8."""
_WIDENED_EACH = 48
_SCALED_EACH = 64
"""Likewise, rows that each expert of a stack has on average."""
_FUSED_ROWS = 4
_GROUPS = (32, 64, 128, 256, 512)


class StreamedWeights(QuantKernel):
    """int4, int8 and fp8 codes, widened in the registers of the matrix instructions."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        self._site = site
        self._device = device
        self._bytes = scheme.weight != "int4"
        self._variant = stream.variant_of(scheme, site.dtype, experts=site.num_experts)
        stream.prepare(self._variant, site.in_features)

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """Weights alone are quantised; chunks of 64 inputs, groups of whole units of 32."""
        reasons = _common_reasons(scheme, site)
        if scheme.weight not in ("int4", "int8", "fp8_e4m3"):
            reasons.append(f"has no codes for {scheme.weight}")
        if "bfloat16" not in caps.compute_dtypes:
            reasons.append("needs the matrix instructions of compute capability 8.0")
        if scheme.activation:
            reasons.append("keeps activations in 16 bits")
        if scheme.group > 0 and scheme.group not in _GROUPS:
            reasons.append(f"{scheme.group} inputs share a scale: needs one of {_GROUPS}")
        if scheme.offset and scheme.group <= 0:
            reasons.append("adds offsets for groups of inputs only")
        if scheme.group > 0 and site.in_features % scheme.group:
            reasons.append(f"{site.in_features} inputs are no whole groups of {scheme.group}")
        return tuple(reasons)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Codes in the order of `packing`, scales and offsets f32 [O/32, G, 32]; of a stack matrix
        after matrix."""
        pack = packing.pack_bytes if self._bytes else packing.pack_nibbles
        if self._site.num_experts:  # one by one, since packing takes many times a matrix's room
            codes = torch.cat([pack(matrix) for matrix in weight.values])
        else:
            codes = pack(weight.values)
        scales = packing.pack_scales(weight.scales, weight.values.shape[:-1])
        packed = {"codes": codes, "scales": scales}
        if weight.offsets is not None:
            packed["offsets"] = packing.pack_scales(weight.offsets, weight.values.shape[:-1])
        if weight.order is not None:
            packed["order"] = weight.order
        return packed

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O] in x's dtype."""
        if "order" in packed:
            x = x.index_select(1, packed["order"])
        outputs, inputs = self._site.out_features, self._site.in_features
        tape = tape_for(x) if len(x) == 1 and inputs <= longest_row() else None
        if tape is not None:
            return tape.matrix(x, _noted(self._variant, packed, outputs, inputs, bias))
        settle()
        if len(x) > _WIDENED_ROWS:
            weights = stream.widen(self._variant, packed, outputs, inputs, x.dtype)
            return F.linear(x, weights, bias)
        return stream.stream(self._variant, _readable(x), packed, outputs, bias, x.dtype)

    def apply_each(self, x: Tensor, packed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """x[T,I] and ids i32[T,k] -> [T*k,O] in x's dtype."""
        outputs, inputs, experts = self._site.out_features, x.shape[1], self._site.num_experts
        settle()
        if not ids.numel():
            return x.new_empty(0, outputs)
        routes = Routes.of(ids, experts)
        if routes.average > _WIDENED_EACH:
            weights = stream.widen(self._variant, packed, experts * outputs, inputs, x.dtype)
            return multiply_widened(x, weights, routes)
        if _rehearses(self._device):
            return x.new_empty(ids.numel(), outputs)
        return stream.stream_stack(self._variant, _readable(x), packed, outputs, x.dtype, routes)


class _StreamedRounded(QuantKernel):
    """8-bit codes times activations of the same kind: few rows are rounded on the way."""

    _many: ClassVar[type[ScaledFp8] | type[Int8Activations]]
    """Multiplies many rows, and lays down what both read."""
    _codes: ClassVar[str]
    """Its name for the codes [O,I]."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        self._site = site
        self._device = device
        self._product = self._many(scheme, site, device)
        static = scheme.activation_scale == "static"
        self._variant = stream.variant_of(scheme, site.dtype, static, site.num_experts)
        self._rounded = replace(self._variant, INPUT=2, GIVEN=0)
        self._stacks = WeightOnly(scheme, site, device) if site.num_experts else None
        stream.prepare(self._rounded if site.num_experts else self._variant, site.in_features)

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """What the product for many rows needs, and chunks of 64 inputs."""
        single = replace(site, num_experts=0)  # stacks of many rows have another product
        reasons = [*_common_reasons(scheme, site), *cls._many.supports(scheme, single, caps)]
        if scheme.activation_scale == "tensor":
            reasons.append("needs a scale a token, or one that is given")
        return tuple(reasons)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Codes [O,I] as they are, scales f32; of a stack matrix after matrix."""
        if self._stacks is not None:
            return self._stacks.repack(weight)
        packed = self._product.repack(weight)
        return {**packed, "codes": packed[self._codes]}

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] -> [T,O] in x's dtype."""
        rows, inputs = x.shape
        if rows > _SCALED_ROWS:
            return self._product.apply(x, packed, bias)
        outputs, given = self._site.out_features, packed.get("input_scale")
        if rows == 1 and inputs <= longest_row() and (tape := tape_for(x)) is not None:
            return tape.matrix(x, _noted(self._variant, packed, outputs, inputs, bias, given))
        if rows <= _FUSED_ROWS and stream.fits(self._variant, rows, inputs):
            return stream.stream(self._variant, _readable(x), packed, outputs, bias, x.dtype, given)
        q, scales = self._round(x, given)
        return stream.stream(self._rounded, q, packed, outputs, bias, x.dtype, scales)

    def apply_each(self, x: Tensor, packed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """x[T,I] and ids i32[T,k] -> [T*k,O] in x's dtype."""
        assert self._stacks is not None
        settle()
        average = -(-ids.numel() // self._site.num_experts)
        if not average or average > _SCALED_EACH:
            return self._stacks.apply_each(x, packed, ids)
        routes = Routes.of(ids, self._site.num_experts)
        q, scales = self._round(x, None)
        outputs = self._site.out_features
        if _rehearses(self._device):
            return x.new_empty(ids.numel(), outputs)
        return stream.stream_stack(self._rounded, q, packed, outputs, x.dtype, routes, scales)

    @abstractmethod
    def _round(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes [T,I], and a scale a row."""


class StreamedFp8(_StreamedRounded):
    """fp8 by fp8."""

    _many = ScaledFp8
    _codes = "codes"

    def _round(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        return round_to_fp8(x, given)


class StreamedInt8(_StreamedRounded):
    """int8 by int8, summed in int32."""

    _many = Int8Activations
    _codes = "values"

    def _round(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        if given is None:
            return quantize_activation(x, "int8_token")
        return quantize_with(x, given, "int8"), given.float().expand(len(x)).contiguous()


def _noted(
    variant: stream.Variant,
    packed: Mapping[str, Tensor],
    outputs: int,
    inputs: int,
    bias: Tensor | None,
    given: Tensor | None = None,
) -> Matrix:
    """The matrix as the tape of a one-token step takes it."""
    weights = Weights(
        variant.CODES, variant.INPUT, variant.HALF, variant.GROUP, variant.OFFSET, variant.GIVEN
    )
    scales, offsets = packed["scales"], packed.get("offsets")
    return Matrix(weights, packed["codes"], outputs, inputs, scales, offsets, bias, given)


def _common_reasons(scheme: QuantScheme, site: LinearSite) -> list[str]:
    """What every kernel here asks for."""
    reasons = []
    if problem := compiler_problem():
        reasons.append(problem)
    if site.dtype not in ("bfloat16", "float16"):
        reasons.append(f"multiplies 16-bit activations, not {site.dtype}")
    if site.in_features % packing.CHUNK:
        reasons.append(f"{site.in_features} inputs: needs a multiple of {packing.CHUNK}")
    if site.num_experts and (scheme.reordered or scheme.activation_scale == "static"):
        reasons.append("has no stacks of experts with orders or input scales of their own")
    if site.num_experts and site.out_features % packing.TILES:
        reasons.append(f"experts of {site.out_features} outputs: needs a multiple of 32")
    return reasons


def _rehearses(device: DeviceRuntime) -> bool:
    """Whether Triton's kernels are only noted now: then nobody has sorted the routes."""
    return isinstance(device, GpuRuntime) and device.rehearsing


def _readable(x: Tensor) -> Tensor:
    """x with rows that 16 bytes at a time can be read of."""
    fits = x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.data_ptr() % 16 == 0
    return x if fits else x.clone(memory_format=torch.contiguous_format)
