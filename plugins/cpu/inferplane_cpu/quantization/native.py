"""int8 and int4 weights multiplied in integers by the C++ kernels.

Activations are rounded to int8 per row where the scheme says so, else to 16 bits per 32 inputs;
sums are exact int32. T tokens, I inputs, O outputs, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.interfaces import (
    CanonicalWeight,
    Capabilities,
    DeviceRuntime,
    LinearSite,
    QuantKernel,
    QuantScheme,
    Reasons,
)
from inferplane_cpu.compiler.capture import Symbol
from inferplane_cpu.native.library import NATIVE, Kind
from inferplane_cpu.native.machine import Machine, ProgramBuilder, StepArrays
from inferplane_cpu.native.packing import PackedWeight, Packer

__all__ = ["NativeLinear"]

_GROUP = 32
_LONE_BYTES = 1 << 20
"""Weights, once for every eight rows, that one thread has multiplied before others are awake."""
_SMALL_GROUP = 16
"""Of GGUF's Q6_K."""


class NativeLinear(QuantKernel):
    """One layer. `repack` gives `data` u8 and, for int8 inputs, `scale` f32[O]."""

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """Integers with scales an output or in groups of a multiple of 32; int8 also of 16."""
        per_output_int8 = scheme.weight == "int8" and scheme.group == 0 and not scheme.offset
        grouped = scheme.group > 0 and scheme.group % _unit(scheme) == 0
        checks = (
            (NATIVE in caps.labels, "the compiled kernels are not there"),
            (scheme.weight in ("int4", "int8"), f"weights in {scheme.weight}: int4 and int8 only"),
            (per_output_int8 or grouped, f"group {scheme.group}: needs a multiple of {_GROUP}"),
            (not (scheme.weight == "int8" and scheme.offset), "int8 with offsets"),
            (not scheme.reordered, "inputs in activation order"),
            (scheme.activation in ("", "int8"), f"activations in {scheme.activation}"),
            (scheme.activation_scale != "static", "static activation scales"),
            (site.in_features % _GROUP == 0, f"in_features {site.in_features}: a multiple of 32"),
            (site.num_experts == 0, "stacked experts"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        machine = getattr(device, "machine", None)
        if not isinstance(machine, Machine):
            raise DeviceError("the native kernels need the CPU plugin's own runtime")
        self._machine = machine
        self._scheme = scheme
        self._site = site
        if scheme.weight == "int4":
            self._kind = Kind.INT4_G32
        else:
            rounds_inputs = scheme.activation == "int8" and not scheme.group
            by_groups = Kind.INT8_G16 if _unit(scheme) == _SMALL_GROUP else Kind.INT8_G32
            self._kind = Kind.INT8 if rounds_inputs else by_groups

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Wider groups, and whole rows, repeat their scales: one kernel serves them all."""
        packer = Packer(self._machine.library)
        scales, offsets = weight.scales, weight.offsets
        if self._kind != Kind.INT8:
            unit = _unit(self._scheme)
            groups = self._site.in_features // unit
            times = self._scheme.group // unit or groups
            scales = scales.repeat_interleave(times, 1)[:, :groups]
            if offsets is not None:
                offsets = offsets.repeat_interleave(times, 1)[:, :groups]
        if self._kind == Kind.INT4_G32:
            low = int(weight.values.min()) if weight.values.numel() else 0
            packed = packer.int4(weight.values, scales, offsets, -8 if low < 0 else 0)
        else:
            packed = packer.int8(weight.values, scales, grouped=self._kind != Kind.INT8)
        return {"data": packed.data} | ({} if packed.scale is None else {"scale": packed.scale})

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """Records itself during capture; otherwise runs a program of one instruction."""
        weight = PackedWeight(
            self._kind,
            self._site.out_features,
            self._site.in_features,
            packed["data"],
            packed.get("scale"),
        )
        if type(x) is Symbol:
            return x.recording.add("linear", (x,), (weight.out_features,), weight=weight, bias=bias)
        builder = ProgramBuilder(self._machine, len(x), 1)
        source, target = builder.buffer(weight.in_features), builder.buffer(weight.out_features)
        builder.linear(
            weight,
            source,
            target,
            bias=None if bias is None else bias.float(),
            rounded=int(x.dtype == torch.bfloat16),
        )
        program = builder.build(1, _GROUP)
        program.buffers[source].copy_(x)
        rows, none = torch.zeros(len(x), dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        lone = weight.data.numel() * -(-len(x) // 8) <= _LONE_BYTES
        program.run(StepArrays(rows, rows, none, none, none, (), ()), lone)
        return program.buffers[target].to(x.dtype)


def _unit(scheme: QuantScheme) -> int:
    """Inputs of one scale as the kernels have them; wider groups repeat theirs."""
    small = scheme.weight == "int8" and scheme.group == _SMALL_GROUP
    return _SMALL_GROUP if small else _GROUP
