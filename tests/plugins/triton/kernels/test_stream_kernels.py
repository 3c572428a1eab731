"""One to four rows times a matrix, and argmax, against float64 and the core's references."""

from __future__ import annotations

import pytest
import torch
import triton
from torch import Tensor

from inferplane.interfaces import Capabilities, OpSite
from inferplane.ops.reference.linear import add_norm_linear as reference_add_norm_linear
from inferplane.ops.reference.linear import silu_mul_linear as reference_silu_mul_linear
from inferplane.ops.reference.sampling import argmax
from inferplane.ops.sampling import SamplingTensors
from inferplane_triton.device.stream import stream_gated, stream_normed, stream_rows
from inferplane_triton.kernels.fused import (
    ADD_NORM_LINEAR,
    add_norm_linear,
    silu_mul_linear,
)
from inferplane_triton.kernels.linear import LINEAR, linear
from inferplane_triton.kernels.sampling import sample

OUTPUTS = 50


def operands(rows: int, inputs: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(rows, inputs, device=device).half()
    w = (torch.randn(OUTPUTS, inputs, device=device) / inputs**0.5).half()
    return x, w, torch.randn(OUTPUTS, device=device).half()


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got.double(), wanted, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("inputs", [16, 576, 3072])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_linear_streams_one_row_and_multiplies_more(rows: int, inputs: int, device: str) -> None:
    x, w, b = operands(rows, inputs, device)
    close(linear(x, w, b), x.double() @ w.double().t() + b.double())
    close(linear(x, w, None), x.double() @ w.double().t())


def test_a_matrix_that_streams_fully_elsewhere_is_left_alone() -> None:
    site = OpSite("linear/1", "bfloat16", {"I": 4096, "O": 128256})
    assert any("large" in reason for reason in LINEAR.supports(site, Capabilities()))
    assert LINEAR.supports(OpSite("linear/1", "float32", {"I": 64, "O": 64}), Capabilities())
    small = OpSite("linear/1", "bfloat16", {"I": 1024, "O": 1024})
    assert LINEAR.supports(small, Capabilities()) == ()


@pytest.mark.parametrize("stages", [0, 3])
@pytest.mark.parametrize(("rows", "inputs"), [(1, 576), (2, 128), (4, 96)])
def test_a_few_rows_share_each_weight(rows: int, inputs: int, stages: int, device: str) -> None:
    x, w, b = operands(rows, inputs, device)
    out = torch.empty(rows, OUTPUTS, dtype=x.dtype, device=device)
    stream_rows[(triton.cdiv(OUTPUTS, 8),)](
        x, w, b, out, x.stride(0), w.stride(0), OUTPUTS, OUTPUTS,
        INPUTS=inputs, M=rows, ROWS=8, COLS=64, BIAS=True, STAGES=stages,
    )  # fmt: skip
    close(out, x.double() @ w.double().t() + b.double())


@pytest.mark.parametrize("rows", [1, 2])
def test_the_gate_is_applied_on_the_way(rows: int, device: str) -> None:
    inputs = 96
    _, w, _ = operands(rows, inputs, device)
    x = torch.randn(rows, 2 * inputs, device=device).half()
    out = torch.empty(rows, OUTPUTS, dtype=x.dtype, device=device)
    stream_gated[(triton.cdiv(OUTPUTS, 8),)](
        x, w, out, x.stride(0), w.stride(0), OUTPUTS, OUTPUTS,
        INPUTS=inputs, M=rows, ROWS=8, COLS=64,
    )  # fmt: skip
    gate, up = x.double().chunk(2, dim=1)
    close(out, (torch.nn.functional.silu(gate) * up) @ w.double().t())


@pytest.mark.parametrize("add", [False, True])
def test_the_norm_is_applied_on_the_way(add: bool, device: str) -> None:
    x, w, b = operands(2, 96, device)
    residual, weight = torch.randn_like(x), torch.randn(96, device=device)
    out = torch.empty(2, OUTPUTS, dtype=x.dtype, device=device)
    total = torch.empty_like(x)
    stream_normed[(triton.cdiv(OUTPUTS, 8),)](
        x, residual, weight, w, b, out, total, 96, 96, w.stride(0), OUTPUTS, OUTPUTS, 1e-5,
        INPUTS=96, PAD=128, M=2, ROWS=8, ADD=add, BIAS=True,
    )  # fmt: skip
    wide = ((x + residual) if add else x).double()
    normed = wide * torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + 1e-5) * weight.double()
    close(out, normed @ w.double().t() + b.double())
    if add:
        torch.testing.assert_close(total, x + residual, atol=0, rtol=0)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("inputs", [96, 2100])
def test_the_fused_ops_are_the_ops_in_turn(rows: int, inputs: int, device: str) -> None:
    x, w, b = operands(rows, inputs, device)
    residual, weight = torch.randn_like(x), torch.randn(inputs, device=device)
    for bias in (b, None):
        got = add_norm_linear(x, residual, weight, 1e-5, w, bias)
        wanted = reference_add_norm_linear(x, residual, weight, 1e-5, w, bias)
        for ours, theirs in zip(got, wanted, strict=True):
            close(ours, theirs.double())
        gates = torch.cat((x, residual), 1)
        close(silu_mul_linear(gates, w, bias), reference_silu_mul_linear(gates, w, bias).double())


def test_fusing_is_left_where_it_does_not_pay() -> None:
    def site(inputs: int, outputs: int, dtype: str = "bfloat16") -> OpSite:
        return OpSite("add_norm_linear/1", dtype, {"I": inputs, "O": outputs})

    assert ADD_NORM_LINEAR.supports(site(1024, 6144), Capabilities()) == ()
    assert ADD_NORM_LINEAR.supports(site(8192, 64), Capabilities())
    assert ADD_NORM_LINEAR.supports(site(64, 64, "float32"), Capabilities())


def test_argmax_takes_the_lowest_of_equals_and_refuses_what_is_not_finite(device: str) -> None:
    logits = torch.randn(9, 20011, device=device)
    logits[0] = -torch.inf
    logits[1, 5], logits[2, 7] = torch.nan, torch.inf
    logits[3, [99, 100, 20010]] = 50.0
    logits[4], logits[4, 9] = -0.0, 0.0
    logits[5] = -torch.rand(20011) - 1
    logits[6, 20010] = 99.0
    ids, logprobs = sample(logits, SamplingTensors())
    assert logprobs is None
    assert ids.tolist() == argmax(logits).tolist()
    assert ids[:4].tolist() == [-1, -1, -1, 99] and ids[6] == 20010
