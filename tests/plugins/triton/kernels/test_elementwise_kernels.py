"""Norms, activations and rotation against the core's references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane.ops.reference.norm import add_rms_norm, rms_norm
from inferplane.ops.reference.rotary import rotary
from inferplane_triton.kernels import activation as fast_activation
from inferplane_triton.kernels import norm as fast_norm
from inferplane_triton.kernels import rotary as fast_rotary

DTYPES = {torch.float32: (1e-6, 1e-5), torch.float16: (1e-3, 2e-3)}
ROWS = 7

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def close(got: Tensor, wanted: Tensor) -> None:
    atol, rtol = DTYPES[wanted.dtype]
    torch.testing.assert_close(got, wanted, atol=atol, rtol=rtol)


def slice_of(width: int, dtype: torch.dtype, device: str) -> Tensor:
    """Rows as models pass them: part of a wider projection."""
    return torch.randn(ROWS, width + 40, device=device).to(dtype)[:, 8 : 8 + width]


@dtypes
@pytest.mark.parametrize("size", [1, 96, 128, 577])
def test_rms_norm_of_rows_inside_a_wider_tensor(size: int, dtype: torch.dtype, device: str) -> None:
    x, w = slice_of(size, dtype, device), torch.randn(size, device=device)
    close(fast_norm.rms_norm(x, w, 1e-5), rms_norm(x, w, 1e-5))


@dtypes
def test_rms_norm_of_each_head(dtype: torch.dtype, device: str) -> None:
    x = torch.randn(ROWS, 6, 48, device=device).to(dtype)[:, 1:4]
    w = torch.randn(48, device=device)
    close(fast_norm.rms_norm(x, w, 1e-6), rms_norm(x, w, 1e-6))


@dtypes
def test_rms_norm_of_a_large_row_is_finite(dtype: torch.dtype, device: str) -> None:
    x = torch.full((1, 64), 6e4, device=device).to(dtype)
    assert fast_norm.rms_norm(x, torch.ones(64, device=device), 1e-5).isfinite().all()


@dtypes
@pytest.mark.parametrize("size", [96, 577])
def test_the_sum_is_normed_and_returned(size: int, dtype: torch.dtype, device: str) -> None:
    x, residual = slice_of(size, dtype, device), slice_of(size, dtype, device)
    w = torch.randn(size, device=device)
    got = fast_norm.add_rms_norm(x, residual, w, 1e-5)
    for ours, wanted in zip(got, add_rms_norm(x, residual, w, 1e-5), strict=True):
        close(ours, wanted)


@dtypes
@pytest.mark.parametrize(
    ("fast", "gate"),
    [
        (fast_activation.silu_mul, F.silu),
        (fast_activation.gelu_mul, partial(F.gelu, approximate="tanh")),
    ],
)
@pytest.mark.parametrize("inner", [1, 48, 1500])
def test_gated_activations(
    fast: Callable[[Tensor], Tensor],
    gate: Callable[[Tensor], Tensor],
    inner: int,
    dtype: torch.dtype,
    device: str,
) -> None:
    x = slice_of(2 * inner, dtype, device) * 4
    left, right = x.double().chunk(2, dim=1)
    # float64, since float32 cancels in 1 + tanh: the reference is the one that is off
    close(fast(x), (gate(left) * right).to(dtype))


def heads(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    merged = torch.randn(ROWS, 15, 48, device=device).to(dtype)
    return merged[:, :9], merged[:, 9:12]


def turn(pairs: int, device: str) -> tuple[Tensor, Tensor]:
    angles = torch.randn(ROWS, pairs, device=device)
    return angles.cos(), angles.sin()


@dtypes
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("pairs", [24, 16, 5])
def test_rotation_of_all_or_part_of_a_head(
    pairs: int, interleaved: bool, dtype: torch.dtype, device: str
) -> None:
    (q, k), (cos, sin) = heads(dtype, device), turn(pairs, device)
    got = fast_rotary.rotary(q, k, cos, sin, interleaved)
    for ours, wanted in zip(got, rotary(q, k, cos, sin, interleaved), strict=True):
        close(ours, wanted)


@dtypes
def test_norm_and_rotation_in_one_are_the_two_in_turn(dtype: torch.dtype, device: str) -> None:
    (q, k), (cos, sin) = heads(dtype, device), turn(24, device)
    q_weight, k_weight = torch.randn(2, 48, device=device)
    got = fast_rotary.norm_rotary(q, k, q_weight, k_weight, 1e-6, cos, sin, False)
    normed: Any = rms_norm(q, q_weight, 1e-6), rms_norm(k, k_weight, 1e-6)
    for ours, wanted in zip(got, rotary(*normed, cos, sin, False), strict=True):
        close(ours, wanted)
