"""The best id of each row as the programs choose it, against the reference op."""

from __future__ import annotations

import pytest
import torch

from inferplane.ops.reference.sampling import argmax
from inferplane_cpu.native.library import Op
from inferplane_cpu.native.machine import Machine, ProgramBuilder, StepArrays


def chosen(machine: Machine, logits: torch.Tensor) -> torch.Tensor:
    """ids i32[R] of f32[R,V]."""
    rows, width = logits.shape
    builder = ProgramBuilder(machine, 1, rows)
    source = builder.buffer(width, per_sample=True)
    builder.emit(Op.ARGMAX, src=source, n=width)
    program = builder.build(1, 32)
    program.buffers[source].copy_(logits)
    none, samples = torch.zeros(0, dtype=torch.int32), torch.zeros(rows, dtype=torch.int32)
    program.run(StepArrays(none, none, none, none, samples, (), ()))
    return program.ids


@pytest.mark.parametrize("width", [16, 40, 1000])
def test_programs_choose_the_ids_of_the_reference(machine: Machine, width: int) -> None:
    logits = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    assert torch.equal(chosen(machine, logits), argmax(logits))


def test_of_equal_logits_the_lowest_id_wins(machine: Machine) -> None:
    logits = torch.zeros(2, 40)
    logits[0, [7, 23, 39]] = 3.0
    logits[1, 38:] = 3.0
    assert chosen(machine, logits).tolist() == [7, 38]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [3, 38])
def test_a_row_that_is_not_finite_has_no_id(machine: Machine, value: float, place: int) -> None:
    logits = torch.randn(2, 40)
    logits[1, place] = value
    logits[0, place] = -torch.inf  # forbidden, not broken
    ids = chosen(machine, logits)
    assert ids[0] == argmax(logits)[0] != -1
    assert ids[1] == -1


def test_a_row_of_nothing_but_minus_infinity_has_no_id(machine: Machine) -> None:
    assert chosen(machine, torch.full((1, 32), -torch.inf)).tolist() == [-1]


def test_the_next_run_leaves_the_ids_of_the_one_before(machine: Machine) -> None:
    builder = ProgramBuilder(machine, 1, 1)
    source = builder.buffer(32, per_sample=True)
    builder.emit(Op.ARGMAX, src=source, n=32)
    program = builder.build(1, 32)
    none, one = torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    seen = []
    for best in (3, 17):
        program.buffers[source].zero_()
        program.buffers[source][0, best] = 1.0
        program.run(StepArrays(none, none, none, none, one, (), ()))
        seen.append(program.ids)
    assert [ids.tolist() for ids in seen] == [[3], [17]]
