"""Products with quantised weights against the core's dequantise-and-multiply."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.quantization.reference import ReferenceKernel
from inferplane_triton.quantization.int8 import Int8Activations
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
}


@dataclass
class Device:
    """All a kernel asks of its runtime."""

    torch_device: str


def made(scheme: QuantScheme, device: str) -> CanonicalWeight:
    groups = INPUTS // scheme.group if scheme.group > 0 else 1
    outputs = 1 if scheme.group == -1 else OUTPUTS
    if scheme.weight.startswith("fp8"):
        values = torch.randn(OUTPUTS, INPUTS).to(torch.float8_e4m3fn)
    else:
        low, high = (-8, 8) if scheme.weight == "int4" else (-128, 128)
        values = torch.randint(low, high, (OUTPUTS, INPUTS), dtype=torch.int8)
    return CanonicalWeight(
        values=values.to(device),
        scales=(torch.rand(outputs, groups, device=device) + 0.5) / 256,
        offsets=torch.randn(outputs, groups, device=device) / 64 if scheme.offset else None,
        order=torch.randperm(INPUTS, device=device).int() if scheme.reordered else None,
    )


def compare(kernel: object, scheme: QuantScheme, rows: int, bias: bool, device: str) -> None:
    weight = made(scheme, device)
    x = torch.randn(rows, INPUTS, device=device).half()
    b = torch.randn(OUTPUTS, device=device).half() if bias else None
    ours = kernel(scheme, SITE, Device(device))  # type: ignore[operator]
    theirs = ReferenceKernel(scheme, SITE)
    got = ours.apply(x, ours.repack(weight), b).double()
    wanted = theirs.apply(x, theirs.repack(weight), b).double()
    assert (got - wanted).norm() / wanted.norm() < 5e-3


@pytest.mark.parametrize("rows", [1, 3, 21])
@pytest.mark.parametrize("name", SCHEMES)
def test_codes_are_widened_inside_the_product(name: str, rows: int, device: str) -> None:
    scheme = SCHEMES[name]
    assert WeightOnly.supports(scheme, SITE, CAPS) == ()
    compare(WeightOnly, scheme, rows, rows == 3, device)


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
