"""Packed weights of every type against float64 arithmetic on the same dequantised values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inferplane.errors import UnsupportedError
from inferplane_cpu.native.library import Prologue
from inferplane_cpu.native.machine import Machine, ProgramBuilder, StepArrays
from inferplane_cpu.native.packing import PackedWeight, Packer

SHAPES = [(64, 16), (96, 40), (576, 960), (1536, 48)]
ROWS = [1, 2, 3, 5, 8, 9, 17, 24]  # alone, within a turn, of several turns


def quantised(machine: Machine, kind: str, weight: Tensor) -> tuple[PackedWeight, Tensor]:
    """(packed, the values it stands for)."""
    packer = Packer(machine.library)
    grouped = weight.unflatten(1, (-1, 32))
    match kind:
        case "f32":
            return packer.dense(weight), weight
        case "bf16":
            return packer.dense(weight.bfloat16()), weight.bfloat16().float()
        case "int8":
            scale = weight.abs().amax(1, keepdim=True) / 127
            values = (weight / scale).round().to(torch.int8)
            return packer.int8(values, scale), values * scale
        case "int8 groups":
            scale = (grouped.abs().amax(2) / 127).half().float()
            values = (grouped / scale[..., None]).round().clamp(-128, 127).to(torch.int8)
            packed = packer.int8(values.flatten(1), scale)
            return packed, (values * scale[..., None]).flatten(1)
        case "int8 groups of 16":
            grouped = weight.unflatten(1, (-1, 16))
            scale = (grouped.abs().amax(2) / 127).half().float()
            values = (grouped / scale[..., None]).round().clamp(-128, 127).to(torch.int8)
            packed = packer.int8(values.flatten(1), scale)
            return packed, (values * scale[..., None]).flatten(1)
        case "int4 symmetric":
            scale = (grouped.abs().amax(2) / 7).half().float()
            values = (grouped / scale[..., None]).round().clamp(-8, 7).to(torch.int8)
            packed = packer.int4(values.flatten(1), scale, None, -8)
            return packed, (values * scale[..., None]).flatten(1)
        case _:
            low = grouped.amin(2).half().float()
            scale = ((grouped.amax(2) - low) / 15).half().float()
            values = ((grouped - low[..., None]) / scale[..., None]).round().clamp(0, 15)
            packed = packer.int4(values.to(torch.int8).flatten(1), scale, low, 0)
            return packed, (values * scale[..., None] + low[..., None]).flatten(1)


def apply(machine: Machine, packed: PackedWeight, x: Tensor, **options: object) -> Tensor:
    """One linear instruction over the rows of x."""
    builder = ProgramBuilder(machine, len(x), 1)
    source, target = builder.buffer(x.shape[1]), builder.buffer(packed.out_features)
    builder.linear(packed, source, target, **options)  # type: ignore[arg-type]
    program = builder.build(1, 32)
    program.buffers[source].copy_(x)
    rows = torch.zeros(len(x), dtype=torch.int32)
    one = torch.zeros(1, dtype=torch.int32)
    ends = torch.tensor([0, len(x)], dtype=torch.int32)
    program.run(StepArrays(rows, rows, ends, one, one, (), ()))
    return program.buffers[target].clone()


LIMITS = {"int8": 2e-2, "bf16": 4e-3}  # relative Frobenius norm; int8 rounds its inputs too
KINDS = [
    *("f32", "bf16", "int8"),
    *("int8 groups", "int8 groups of 16", "int4 symmetric", "int4 with offsets"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_packed_matrix_multiplies_like_its_values(
    machine: Machine, kind: str, inputs: int, outputs: int
) -> None:
    make = torch.Generator().manual_seed(inputs)
    packed, values = quantised(machine, kind, torch.randn(outputs, inputs, generator=make))
    for rows in ROWS:
        x = torch.randn(rows, inputs, generator=make)
        expected = x.double() @ values.double().T
        error = (apply(machine, packed, x) - expected).norm() / expected.norm()
        assert error < LIMITS.get(kind, 5e-5), (rows, error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_alone_and_in_company(machine: Machine, kind: str) -> None:
    make = torch.Generator().manual_seed(1)
    packed, _ = quantised(machine, kind, torch.randn(96, 64, generator=make))
    x = torch.randn(11, 64, generator=make)
    together = apply(machine, packed, x)
    for row in range(len(x)):
        assert torch.equal(apply(machine, packed, x[row : row + 1])[0], together[row])


def test_prologues_do_what_their_ops_do(machine: Machine) -> None:
    make = torch.Generator().manual_seed(2)
    weight = torch.randn(48, 64, generator=make)
    packed = Packer(machine.library).dense(weight)
    x, norm = torch.randn(5, 64, generator=make), torch.randn(64, generator=make)
    normed = torch.nn.functional.rms_norm(x, (64,), norm, 1e-5)
    native = apply(machine, packed, x, prologue=Prologue.RMS, norm=norm, eps=1e-5)
    torch.testing.assert_close(native, normed @ weight.T, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("prologue", "activation"),
    [
        (Prologue.SILU_MUL, torch.nn.functional.silu),
        (
            Prologue.GELU_MUL,
            lambda gate: torch.nn.functional.gelu(gate, approximate="tanh"),
        ),
    ],
)
def test_gates_do_what_their_ops_do(
    machine: Machine, prologue: Prologue, activation: object
) -> None:
    make = torch.Generator().manual_seed(3)
    weight = torch.randn(32, 64, generator=make)
    packed = Packer(machine.library).dense(weight)
    both = 3 * torch.randn(6, 128, generator=make)
    gate, up = both.chunk(2, 1)
    builder = ProgramBuilder(machine, 6, 1)
    source, target = builder.buffer(128), builder.buffer(32)
    builder.linear(packed, source, target, prologue=prologue)
    program = builder.build(1, 32)
    program.buffers[source].copy_(both)
    rows, one = torch.zeros(6, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    ends = torch.tensor([0, 6], dtype=torch.int32)
    program.run(StepArrays(rows, rows, ends, one, one, (), ()))
    expected = (activation(gate) * up) @ weight.T  # type: ignore[operator]
    torch.testing.assert_close(program.buffers[target], expected, atol=5e-5, rtol=1e-4)


def test_widths_the_kernels_cannot_read_are_refused_with_the_number(machine: Machine) -> None:
    with pytest.raises(UnsupportedError, match="in_features 40"):
        Packer(machine.library).dense(torch.zeros(16, 40))


TILE_SHAPES = [(64, 16), (96, 40), (576, 200), (1344, 48)]
"""Half a step of bytes at the end, odd numbers of panels, several blocks of inputs."""
TILE_ROWS = [9, 16, 17, 33, 70]
TILE_KINDS = KINDS[1:]
TILE_LIMITS = {"bf16": 1e-6, "int8": 2e-2}
"""Inputs are bf16 numbers here; of the rest the dequantised weights are rounded to bf16 too."""


@pytest.mark.parametrize("kind", TILE_KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), TILE_SHAPES)
def test_tiles_multiply_like_the_values_of_a_matrix(
    tiled: Machine, kind: str, inputs: int, outputs: int
) -> None:
    make = torch.Generator().manual_seed(inputs)
    packed, values = quantised(tiled, kind, torch.randn(outputs, inputs, generator=make))
    for rows in TILE_ROWS:
        x = torch.randn(rows, inputs, generator=make).bfloat16().float()
        expected = x.double() @ values.double().T
        found = apply(tiled, packed, x, rounded=1)
        error = (found - expected).norm() / expected.norm()
        assert error < TILE_LIMITS.get(kind, 3e-3), (rows, error)


@pytest.mark.parametrize("kind", TILE_KINDS)
def test_a_row_by_tiles_is_the_same_in_any_wide_company(tiled: Machine, kind: str) -> None:
    make = torch.Generator().manual_seed(1)
    packed, _ = quantised(tiled, kind, torch.randn(96, 64, generator=make))
    x = torch.randn(40, 64, generator=make)
    together = apply(tiled, packed, x, rounded=1)
    for rows in (9, 17, 32):
        assert torch.equal(apply(tiled, packed, x[-rows:], rounded=1), together[-rows:])


@pytest.mark.parametrize("inputs", [64, 96, 1376])
def test_whole_numbers_by_tiles_have_the_bits_of_those_by_vectors(
    tiled: Machine, untiled: Machine, inputs: int
) -> None:
    make = torch.Generator().manual_seed(inputs)
    packed, _ = quantised(tiled, "int8", torch.randn(72, inputs, generator=make))
    x, bias = torch.randn(37, inputs, generator=make), torch.randn(72, generator=make)
    by_tiles = apply(tiled, packed, x, bias=bias, add=1)
    assert torch.equal(by_tiles, apply(untiled, packed, x, bias=bias, add=1))


@pytest.mark.parametrize("kind", KINDS[3:])
def test_groups_are_widened_for_rounded_inputs_alone(
    tiled: Machine, untiled: Machine, kind: str
) -> None:
    make = torch.Generator().manual_seed(4)
    packed, _ = quantised(tiled, kind, torch.randn(48, 64, generator=make))
    x = torch.randn(20, 64, generator=make)
    exact = apply(untiled, packed, x)
    assert torch.equal(apply(tiled, packed, x), exact)
    assert not torch.equal(apply(tiled, packed, x, rounded=1), exact)


def test_prologues_come_before_tiles_too(tiled: Machine) -> None:
    make = torch.Generator().manual_seed(2)
    weight = torch.randn(48, 64, generator=make).bfloat16()
    packed = Packer(tiled.library).dense(weight)
    x, norm = torch.randn(21, 64, generator=make), torch.randn(64, generator=make)
    normed = torch.nn.functional.rms_norm(x, (64,), norm, 1e-5).bfloat16().double()
    found = apply(tiled, packed, x, prologue=Prologue.RMS, norm=norm, eps=1e-5)
    torch.testing.assert_close(found.double(), normed @ weight.double().T, atol=0.1, rtol=1e-2)
