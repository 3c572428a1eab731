"""Products with quantised weights against the core's dequantise-and-multiply."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.ops.reference.quantize import quantize_activation, quantize_with
from inferplane.quantization.reference import ReferenceKernel
from inferplane_triton.quantization.int8 import Int8Activations
from inferplane_triton.quantization.scaled import ScaledFp8, round_to_fp8
from inferplane_triton.quantization.weight_only import WeightOnly

OUTPUTS, INPUTS = 72, 256
CAPS = Capabilities(fp8="e4m3fn")
SITE = LinearSite(INPUTS, OUTPUTS, "float16")
SCHEMES = {
    "int4 group": QuantScheme("int4", 64),
    "int4 group, offsets, reordered": QuantScheme("int4", 32, offset=True, reordered=True),
    "int4 per output": QuantScheme("int4"),
    "int8 group": QuantScheme("int8", 128, offset=True),
    "int8 per output": QuantScheme("int8"),
    "fp8 per output": QuantScheme("fp8_e4m3"),
    "fp8 per tensor, int8 activations": QuantScheme("fp8_e4m3", -1, activation="int8"),
    "fp8 blocks, fp8 activations": QuantScheme("fp8_e4m3", 128, activation="fp8_e4m3"),
    "fp8, static activations": QuantScheme(
        "fp8_e4m3", activation="fp8_e4m3", activation_scale="static"
    ),
    "fp8, one scale for all activations": QuantScheme(
        "fp8_e4m3", activation="fp8_e4m3", activation_scale="tensor"
    ),
}


@dataclass
class Device:
    """All a kernel asks of its runtime."""

    torch_device: str


def made(scheme: QuantScheme, device: str, site: LinearSite = SITE) -> CanonicalWeight:
    shape = site.out_features, site.in_features
    groups = shape[1] // scheme.group if scheme.group > 0 else 1
    outputs = 1 if scheme.group == -1 else shape[0]
    is_static = scheme.activation_scale == "static"
    if scheme.weight.startswith("fp8"):
        values = torch.randn(shape).to(torch.float8_e4m3fn)
    else:
        low, high = (-8, 8) if scheme.weight == "int4" else (-128, 128)
        values = torch.randint(low, high, shape, dtype=torch.int8)
    return CanonicalWeight(
        values=values.to(device),
        scales=(torch.rand(outputs, groups, device=device) + 0.5) / 256,
        offsets=torch.randn(outputs, groups, device=device) / 64 if scheme.offset else None,
        order=torch.randperm(shape[1], device=device).int() if scheme.reordered else None,
        input_scale=torch.tensor([0.01], device=device) if is_static else None,
    )


def compare(
    kernel: object,
    scheme: QuantScheme,
    rows: int,
    bias: bool,
    device: str,
    site: LinearSite = SITE,
) -> None:
    weight = made(scheme, device, site)
    dtype = getattr(torch, site.dtype)
    x = torch.randn(rows, site.in_features, device=device).to(dtype)
    b = torch.randn(site.out_features, device=device).to(dtype) if bias else None
    ours = kernel(scheme, site, Device(device))  # type: ignore[operator]
    theirs = ReferenceKernel(scheme, site)
    got = ours.apply(x, ours.repack(weight), b).double()
    wanted = theirs.apply(x, theirs.repack(weight), b).double()
    assert (got - wanted).norm() / wanted.norm() < 5e-3


@pytest.mark.parametrize("rows", [1, 3, 21])
@pytest.mark.parametrize("name", SCHEMES)
def test_codes_are_widened_inside_the_product(name: str, rows: int, device: str) -> None:
    scheme = SCHEMES[name]
    assert WeightOnly.supports(scheme, SITE, CAPS) == ()
    compare(WeightOnly, scheme, rows, rows == 3, device)


@pytest.mark.parametrize("name", ["int4 group, offsets, reordered", "int4 group", "fp8 per output"])
def test_many_rows_go_through_widened_weights(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferplane_triton.quantization.weight_only._WIDENED_ROWS", 16)
    compare(WeightOnly, SCHEMES[name], 21, True, device)


@pytest.mark.parametrize("group", [32, 64, 96, 192, 0])
def test_inputs_that_are_no_power_of_two(group: int, device: str) -> None:
    site = LinearSite(576, OUTPUTS, "float16")
    scheme = QuantScheme("int4", group, offset=True)
    assert WeightOnly.supports(scheme, site, CAPS) == ()
    for rows in (2, 9):
        compare(WeightOnly, scheme, rows, False, device, site)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("given", [False, True])
def test_fp8_rows_are_those_of_the_reference(given: bool, rows: int, device: str) -> None:
    x = torch.randn(rows, 320, device=device).bfloat16() * 3
    x[0, 7] = 900.0
    scale = torch.tensor([0.02], device=device) if given else None
    q, scales = round_to_fp8(x, scale)
    if scale is None:
        # on a processor, since torch divides by numbers otherwise on a GPU: times their inverse
        wanted, wanted_scales = quantize_activation(x.cpu(), "fp8_e4m3_token")
        assert torch.equal(scales.cpu(), wanted_scales)
    else:
        wanted = quantize_with(x, scale, "fp8_e4m3")
        assert torch.equal(scales, scale.expand(rows, 1))
    assert torch.equal(q.float().cpu(), wanted.float().cpu())


def test_fp8_times_fp8(device: str) -> None:
    scheme = QuantScheme("fp8_e4m3", activation="fp8_e4m3")
    site = LinearSite(INPUTS, 80, "bfloat16")
    assert ScaledFp8.supports(scheme, site, CAPS) == ()
    for rows in (1, 4, 40):
        compare(ScaledFp8, scheme, rows, rows == 40, device, site)
    refused = (
        QuantScheme("fp8_e4m3"),
        QuantScheme("fp8_e4m3", 128, activation="fp8_e4m3"),
        QuantScheme("fp8_e4m3", activation="fp8_e4m3", activation_scale="tensor"),
    )
    assert all(ScaledFp8.supports(other, site, CAPS) for other in refused)
    assert ScaledFp8.supports(scheme, LinearSite(INPUTS, 72, "bfloat16"), CAPS)
    assert ScaledFp8.supports(scheme, LinearSite(INPUTS, 80, "float16"), CAPS)


@pytest.mark.parametrize("rows", [1, 21])
@pytest.mark.parametrize("extent", ["token", "tensor"])
@pytest.mark.parametrize("group", [0, -1])
def test_int8_times_int8(group: int, extent: str, rows: int, device: str) -> None:
    scheme = QuantScheme("int8", group, activation="int8", activation_scale=extent)  # type: ignore[arg-type]
    assert Int8Activations.supports(scheme, SITE, CAPS) == ()
    compare(Int8Activations, scheme, rows, rows == 1, device)


def test_what_they_cannot_do_is_said() -> None:
    assert WeightOnly.supports(QuantScheme("fp8_e4m3"), SITE, Capabilities())
    assert WeightOnly.supports(QuantScheme("fp4_e2m1"), SITE, CAPS)
    assert WeightOnly.supports(QuantScheme("int4", 24), SITE, CAPS)
    assert WeightOnly.supports(QuantScheme("int4"), LinearSite(64, 64, "float32"), CAPS)
    assert Int8Activations.supports(QuantScheme("int8"), SITE, CAPS)
