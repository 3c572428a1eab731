"""A linear that gates its own sums gives the next one exactly what that would have made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inferplane_cpu.native.library import Prologue
from inferplane_cpu.native.machine import Machine, NativeProgram, ProgramBuilder, StepArrays
from inferplane_cpu.native.packing import PackedWeight, Packer

HIDDEN, INNER = 64, 96


def packed(machine: Machine, kind: str, outputs: int, inputs: int) -> PackedWeight:
    make, packer = torch.Generator().manual_seed(inputs), Packer(machine.library)
    weight = torch.randn(outputs, inputs, generator=make) / 8
    codes = (weight * 40).round().clamp(-8, 7).to(torch.int8)
    scales = torch.rand(outputs, inputs // 32, generator=make) / 50
    match kind:
        case "f32":
            return packer.dense(weight)
        case "bf16":
            return packer.dense(weight.bfloat16())
        case "int8":
            return packer.int8(codes, scales[:, :1])
        case "int8 groups":
            return packer.int8(codes, scales)
    return packer.int4(codes, scales, None, -8)


def feed_forward(
    machine: Machine, kinds: tuple[str, str], rows: int, prologue: Prologue, gate: bool
) -> tuple[Tensor, NativeProgram]:
    """(results, the program) of two linears with a bias on the first and a residual sum."""
    make = torch.Generator().manual_seed(rows)
    builder = ProgramBuilder(machine, rows, 1)
    x, wide = builder.buffer(HIDDEN), builder.buffer(2 * INNER)
    up = packed(machine, kinds[0], 2 * INNER, HIDDEN)
    bias = torch.randn(2 * INNER, generator=make)
    norm = torch.ones(HIDDEN)
    builder.linear(up, x, wide, prologue=Prologue.RMS, norm=norm, eps=1e-6, bias=bias)
    if gate:
        builder.gate(prologue, wide, INNER)
    builder.linear(packed(machine, kinds[1], HIDDEN, INNER), wide, x, prologue=prologue, add=1)
    program = builder.build(1, 32)
    program.buffers[x].normal_(generator=make)
    ids, none = torch.zeros(rows, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    program.run(StepArrays(ids, ids, none, none, none, (), ()))
    return program.buffers[x].clone(), program


@pytest.mark.parametrize("prologue", [Prologue.SILU_MUL, Prologue.GELU_MUL])
@pytest.mark.parametrize(
    "kinds",
    [("f32", "f32"), ("bf16", "bf16"), ("int8", "int8"), ("int8 groups",) * 2, ("int4", "bf16")],
)
def test_gating_early_changes_no_bit(
    machine: Machine, kinds: tuple[str, str], prologue: Prologue
) -> None:
    for rows in (1, 8, 15, 16, 21, 40):
        early, _ = feed_forward(machine, kinds, rows, prologue, gate=True)
        late, _ = feed_forward(machine, kinds, rows, prologue, gate=False)
        assert early.isfinite().all() and torch.equal(early, late), rows


def test_many_rows_are_gated_where_they_are_multiplied(machine: Machine) -> None:
    kinds = ("bf16", "bf16")
    _, early = feed_forward(machine, kinds, 24, Prologue.SILU_MUL, gate=True)
    _, late = feed_forward(machine, kinds, 24, Prologue.SILU_MUL, gate=False)
    assert not torch.equal(early.buffers[1], late.buffers[1])  # no sums lie there


def test_matrix_tiles_leave_the_gate_to_the_reader(tiled: Machine) -> None:
    kinds = ("bf16", "bf16")
    early, _ = feed_forward(tiled, kinds, 40, Prologue.SILU_MUL, gate=True)
    late, _ = feed_forward(tiled, kinds, 40, Prologue.SILU_MUL, gate=False)
    assert torch.equal(early, late)


def test_only_the_linear_that_fills_the_whole_row_gates_it(machine: Machine) -> None:
    builder = ProgramBuilder(machine, 16, 1)
    x, wide, other = builder.buffer(HIDDEN), builder.buffer(2 * INNER), builder.buffer(2 * INNER)
    builder.gate(Prologue.SILU_MUL, wide, INNER)  # nothing fills it yet
    builder.linear(packed(machine, "bf16", 2 * INNER, HIDDEN), x, wide)
    builder.gate(Prologue.SILU_MUL, other, INNER)
    builder.gate(Prologue.RMS, wide, INNER)
    builder.gate(Prologue.SILU_MUL, wide, INNER // 2)
    assert [i.gated for i in builder.instructions] == [0]
    builder.gate(Prologue.SILU_MUL, wide, INNER)
    assert [i.gated for i in builder.instructions] == [Prologue.SILU_MUL]
