"""Each reference op against plain arithmetic in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane.ops.reference import (
    activation,
    embedding,
    linear,
    moe,
    norm,
    quantize,
    rotary,
)

DTYPES = {torch.float32: (1e-6, 1e-5), torch.bfloat16: (8e-3, 1.6e-2), torch.float16: (1e-3, 2e-3)}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(got: Tensor, expected: Tensor) -> None:
    atol, rtol = DTYPES[got.dtype]
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=rtol)


def rms(x: Tensor, w: Tensor, eps: float) -> Tensor:
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 7), (5, 64), (3, 2, 33)])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, w = randn(*shape, dtype=dtype), randn(shape[-1], seed=1)
    got = norm.rms_norm(x, w, 1e-3)
    assert got.dtype == dtype
    close(got, rms(x, w, 1e-3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm_norms_the_sum_it_returns(dtype: torch.dtype) -> None:
    x, residual, w = randn(4, 32, dtype=dtype), randn(4, 32, seed=2, dtype=dtype), randn(32, seed=1)
    y, total = norm.add_rms_norm(x, residual, w, 1e-5)
    assert torch.equal(total, x + residual)
    close(y, rms(total, w, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(dtype: torch.dtype) -> None:
    x, w, b = randn(4, 32, dtype=dtype), randn(32, seed=1), randn(32, seed=2)
    wide = x.double()
    spread = (wide.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    close(norm.layer_norm(x, w, b, 1e-5), (wide - wide.mean(-1, keepdim=True)) / spread * w + b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_activations(dtype: torch.dtype) -> None:
    x = randn(5, 26, dtype=dtype) * 3
    gate, up = x.double().chunk(2, -1)
    close(activation.silu_mul(x), gate / (1 + (-gate).exp()) * up)
    close(activation.gelu_mul(x), tanh_gelu(gate) * up)
    close(activation.gelu(x), tanh_gelu(x.double()))


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("pairs", [4, 2])
def test_rotary_turns_pairs_as_complex_numbers(
    dtype: torch.dtype, interleaved: bool, pairs: int
) -> None:
    q, k = randn(6, 3, 8, dtype=dtype), randn(6, 2, 8, seed=1, dtype=dtype)
    angle = randn(6, pairs, seed=2) * 10
    got = rotary.rotary(q, k, angle.cos(), angle.sin(), interleaved)
    for x, turned in zip((q, k), got, strict=True):
        head = x[..., : 2 * pairs].double()
        if interleaved:
            numbers = torch.complex(head[..., 0::2].contiguous(), head[..., 1::2].contiguous())
        else:
            numbers = torch.complex(head[..., :pairs].contiguous(), head[..., pairs:].contiguous())
        numbers = numbers * torch.polar(torch.ones_like(angle).double(), angle.double())[:, None]
        parts = (numbers.real, numbers.imag)
        joined = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
        close(turned, torch.cat((joined, x[..., 2 * pairs :].double()), -1))


def test_strided_rows_give_what_contiguous_ones_give() -> None:
    wide = randn(6, 5, 16)
    q, k = wide[:, :3], wide[:, 3:]
    angle = randn(6, 8, seed=2)
    args = (angle.cos(), angle.sin(), False)
    for got, expected in zip(
        rotary.rotary(q, k, *args),
        rotary.rotary(q.contiguous(), k.contiguous(), *args),
        strict=True,
    ):
        assert torch.equal(got, expected)
    w = randn(16, seed=3)
    assert torch.equal(norm.rms_norm(q, w, 1e-6), norm.rms_norm(q.contiguous(), w, 1e-6))


def test_embedding_takes_int32_ids() -> None:
    w = randn(9, 4)
    ids = torch.tensor([8, 0, 8], dtype=torch.int32)
    assert torch.equal(embedding.embedding(ids, w), w[[8, 0, 8]])


def test_linear_and_logits() -> None:
    x, w, b = randn(5, 16), randn(7, 16, seed=1), randn(7, seed=2)
    expected = x.double() @ w.double().t()
    torch.testing.assert_close(linear.linear(x, w, b).double(), expected + b, atol=4e-5, rtol=1e-5)
    scores = linear.logits(x.bfloat16(), w.bfloat16())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, atol=0.1, rtol=2e-2)


@pytest.mark.parametrize("scheme", ["int8_token", "int8_tensor", "fp8_e4m3_token"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantized_activations_are_within_half_a_step(scheme: str, dtype: torch.dtype) -> None:
    x = randn(5, 64, dtype=dtype) * 7
    q, scale = quantize.quantize_activation(x, scheme)
    assert scale.dtype == torch.float32
    assert scale.shape == ((1, 1) if scheme.endswith("tensor") else (5, 1))
    error = (q.double() * scale - x.double()).abs()
    # int8: half a step of the scale; fp8 with 3 bits of mantissa: 2^-4 of the value
    allowed = scale / 2 if "int8" in scheme else x.double().abs() / 16 + scale * 2**-9
    assert bool((error <= allowed * 1.0001).all())
    assert q.double().abs().max() == (127 if "int8" in scheme else 448)


def test_a_row_of_zeros_quantizes_to_zeros() -> None:
    for scheme in ("int8_token", "fp8_e4m3_token"):
        q, scale = quantize.quantize_activation(torch.zeros(2, 8), scheme)
        assert not q.float().any() and bool(torch.isfinite(scale).all()) and bool((scale > 0).all())


@pytest.mark.parametrize("kind", ["int8_token", "fp8_e4m3_token"])
def test_scaled_matmul_multiplies_what_the_codes_mean(kind: str) -> None:
    a, scale_a = quantize.quantize_activation(randn(4, 32), kind)
    b, scale_b = quantize.quantize_activation(randn(6, 32, seed=1), kind)
    got = quantize.scaled_matmul(a, b, scale_a, scale_b, torch.float32)
    expected = (a.double() * scale_a) @ (b.double() * scale_b).t()
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_moe_topk_picks_the_best_experts(scoring: str, renormalize: bool) -> None:
    logits = randn(6, 8)
    w, ids = moe.moe_topk(logits, 3, renormalize, scoring)
    wide = logits.double()
    scores = wide.softmax(-1) if scoring == "softmax" else 1 / (1 + (-wide).exp())
    best = scores.sort(-1, descending=True)
    expected = best.values[:, :3]
    if renormalize:
        expected = expected / expected.sum(-1, keepdim=True)
    assert ids.dtype == torch.int32 and w.dtype == torch.float32
    assert torch.equal(ids.long(), best.indices[:, :3])
    torch.testing.assert_close(w.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_fused_moe_sums_the_chosen_experts(act: str) -> None:
    x, w13, w2 = randn(5, 8), randn(4, 12, 8, seed=1), randn(4, 8, 6, seed=2)
    w, ids = moe.moe_topk(randn(5, 4, seed=3), 2, True, "softmax")
    expected = torch.zeros(5, 8, dtype=torch.float64)
    for row in range(5):
        for weight, expert in zip(w[row], ids[row].tolist(), strict=True):
            gate, up = (x[row].double() @ w13[expert].double().t()).chunk(2)
            gate = F.silu(gate) if act == "silu" else tanh_gelu(gate)
            expected[row] += weight * ((gate * up) @ w2[expert].double().t())
    torch.testing.assert_close(
        moe.fused_moe(x, w13, w2, w, ids, act).double(), expected, atol=1e-4, rtol=1e-4
    )
