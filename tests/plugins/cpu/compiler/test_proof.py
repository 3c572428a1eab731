"""What the proof of a compiled step lets pass, by how its linears round their inputs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from inferplane.interfaces import StepFunction
from inferplane_cpu.compiler.capture import NotLoweredError
from inferplane_cpu.compiler.proof import allowed, check_program
from inferplane_cpu.native.library import Kind

DTYPES = (torch.float32, torch.bfloat16)
GROUPS = (Kind.INT8_G32, Kind.INT8_G16, Kind.INT4_G32)


def step_with(logits: Tensor, dtype: torch.dtype) -> StepFunction:
    """A step that yields these logits for both rows, whatever it is asked."""

    def step(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"logits": logits.expand(2, -1), "hidden": torch.zeros(2, 8, dtype=dtype)}

    return step


def check(difference: float, dtype: torch.dtype, kinds: set[Kind]) -> None:
    """The proof of a program whose log-probabilities are off by that much in the mean."""
    right = torch.linspace(-2, 2, 64)
    logits = right + difference * torch.tensor([1.0, -1.0]).repeat(32)
    example = {"token_ids": torch.zeros(1, dtype=torch.int32)}
    check_program(step_with(logits, dtype), step_with(right, dtype), {}, example, 64, kinds)


@pytest.mark.parametrize("kind", GROUPS)
def test_inputs_in_16_bits_may_move_float32_but_not_bfloat16(kind: Kind) -> None:
    assert allowed(torch.float32, {Kind.F32}) < allowed(torch.float32, {Kind.F32, kind})
    assert allowed(torch.float32, {kind}) < allowed(torch.bfloat16, {Kind.BF16})
    assert allowed(torch.bfloat16, {Kind.BF16, kind}) == allowed(torch.bfloat16, {Kind.BF16})


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_in_8_bits_may_move_more_than_any_dtype(dtype: torch.dtype) -> None:
    assert allowed(dtype, {Kind.INT8, *GROUPS}) > max(allowed(d, set()) for d in DTYPES)


def test_what_a_real_mixture_of_gguf_types_differs_by_passes() -> None:
    check(1.2e-3, torch.float32, {Kind.F32, *GROUPS})
    with pytest.raises(NotLoweredError, match="is allowed"):
        check(1.2e-3, torch.float32, {Kind.F32})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind != Kind.FP8])
def test_a_program_that_computes_something_else_never_passes(
    dtype: torch.dtype, kind: Kind
) -> None:
    with pytest.raises(NotLoweredError, match="differs from torch"):
        check(2.0, dtype, {kind})
