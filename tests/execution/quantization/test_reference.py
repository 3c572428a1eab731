"""The reference kernel multiplies by exactly what a canonical weight means, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, LinearSite, QuantScheme
from inferplane.ops.reference.quantize import quantize_activation
from inferplane.quantization.canonical import join_weights, slice_weight
from inferplane.quantization.reference import ReferenceKernel, dequantize, dequantize_into

SCHEMES = [
    QuantScheme("int8"),
    QuantScheme("int8", offset=True),
    QuantScheme("int4", group=16),
    QuantScheme("int4", group=16, offset=True),
    QuantScheme("int4", group=16, offset=True, reordered=True),
    QuantScheme("int4", group=20),
    QuantScheme("fp8_e4m3"),
    QuantScheme("fp8_e4m3", group=16),
]


def weight_of(scheme: QuantScheme, outputs: int, inputs: int, seed: int) -> CanonicalWeight:
    random = torch.Generator().manual_seed(seed)
    groups = 1 if scheme.group <= 0 else -(-inputs // scheme.group)
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(outputs, inputs, generator=random).to(torch.float8_e4m3fn)
    else:
        high = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-high, high, (outputs, inputs), generator=random).to(torch.int8)
    scales = torch.rand(outputs, groups, generator=random) * 0.1
    return CanonicalWeight(
        values,
        scales,
        torch.randn(outputs, groups, generator=random) if scheme.offset else None,
        torch.randperm(inputs, generator=random).int() if scheme.reordered else None,
    )


def meaning(weight: CanonicalWeight, scheme: QuantScheme) -> Tensor:
    """f64[O,I], element by element as the interface words it."""
    outputs, inputs = weight.values.shape
    out = torch.zeros(outputs, inputs, dtype=torch.float64)
    for column in range(inputs):
        group = column // scheme.group if scheme.group > 0 else 0
        numbers = weight.values[:, column].double() * weight.scales[:, group].double()
        if weight.offsets is not None:
            numbers = numbers + weight.offsets[:, group].double()
        out[:, column if weight.order is None else int(weight.order[column])] = numbers
    return out


@settings(deadline=None, max_examples=40)
@given(scheme=st.sampled_from(SCHEMES), outputs=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_dequantize_is_the_interfaces_formula(scheme: QuantScheme, outputs: int, seed: int) -> None:
    weight = weight_of(scheme, outputs, 48, seed)
    got = dequantize(weight, scheme)
    torch.testing.assert_close(got.double(), meaning(weight, scheme), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_product_is_that_of_the_dequantised_weights(scheme: QuantScheme) -> None:
    weight = weight_of(scheme, 12, 48, 1)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    bias = torch.randn(12, generator=torch.Generator().manual_seed(3))
    kernel = ReferenceKernel(scheme, LinearSite(48, 12, "float32"))
    got = kernel.apply(x, kernel.repack(weight), bias)
    expected = x.double() @ meaning(weight, scheme).t() + bias
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("extent", ["token", "tensor", "static"])
@pytest.mark.parametrize("kind", ["int8", "fp8_e4m3"])
def test_activations_are_seen_through_their_own_quantisation(kind: str, extent: str) -> None:
    scheme = QuantScheme("int8", activation=kind, activation_scale=extent)  # type: ignore[arg-type]
    weight = weight_of(scheme, 12, 48, 1)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    if extent == "static":
        weight.input_scale = torch.tensor([0.01])
        most = 127 if kind == "int8" else 448
        q = (x / 0.01).clamp(-most, most)
        q = q.round() if kind == "int8" else q.to(torch.float8_e4m3fn).float()
        seen = q.double() * 0.01
    else:
        codes, scale = quantize_activation(x, f"{kind}_{extent}")
        seen = codes.double() * scale
    kernel = ReferenceKernel(scheme, LinearSite(48, 12, "float32"))
    got = kernel.apply(x, kernel.repack(weight))
    torch.testing.assert_close(
        got.double(), seen @ meaning(weight, scheme).t(), atol=1e-4, rtol=1e-4
    )


def test_filling_in_pieces_is_filling_at_once() -> None:
    scheme = QuantScheme("int4", group=16, offset=True, reordered=True)
    weight = weight_of(scheme, 40_000, 128, 1)
    target = torch.empty(40_000, 128, dtype=torch.bfloat16)
    dequantize_into(target, weight, scheme)
    assert torch.equal(target, dequantize(weight, scheme).bfloat16())


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.group != 20 and not s.reordered])
def test_joined_and_sliced_weights_mean_the_joined_and_sliced_matrices(
    scheme: QuantScheme,
) -> None:
    parts = [weight_of(scheme, rows, 48, rows) for rows in (3, 5)]
    joined = join_weights(parts)
    whole = torch.cat([meaning(part, scheme) for part in parts])
    torch.testing.assert_close(dequantize(joined, scheme).double(), whole, atol=1e-6, rtol=1e-6)
    part = slice_weight(joined, slice(2, 7), slice(16, 48), scheme)
    torch.testing.assert_close(
        dequantize(part, scheme).double(), whole[2:7, 16:48], atol=1e-6, rtol=1e-6
    )


def test_joined_static_scales_become_the_largest() -> None:
    parts = [weight_of(SCHEMES[0], 2, 8, seed) for seed in (1, 2)]
    for part, scale in zip(parts, (0.5, 0.25), strict=True):
        part.input_scale = torch.tensor([scale])
    joined = join_weights(parts).input_scale
    assert joined is not None and joined.tolist() == [0.5]
