"""The native quantised layer against dequantise-and-multiply in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane_cpu.native.library import NATIVE
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.quantization import native
from inferplane_cpu.quantization.native import NativeLinear

SITE = LinearSite(in_features=256, out_features=72, dtype="float32")
SCHEMES = {
    "int8 per output": QuantScheme("int8"),
    "int8 per output and inputs": QuantScheme("int8", activation="int8"),
    "int8, groups of 32": QuantScheme("int8", group=32),
    "int8, groups of 16": QuantScheme("int8", group=16),
    "int4 symmetric, groups of 32": QuantScheme("int4", group=32),
    "int4 symmetric, groups of 128": QuantScheme("int4", group=128),
    "int4 with offsets, groups of 64": QuantScheme("int4", group=64, offset=True),
}
CAPS = Capabilities(labels=(NATIVE,))


class Device(HostRuntime):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine


def canonical(scheme: QuantScheme, seed: int) -> tuple[CanonicalWeight, Tensor]:
    """(random weights, their values in float64)."""
    make = torch.Generator().manual_seed(seed)
    groups = SITE.in_features // scheme.group if scheme.group else 1
    low, high = (-128, 128) if scheme.weight == "int8" else (0, 16) if scheme.offset else (-8, 8)
    shape = (SITE.out_features, SITE.in_features)
    values = torch.randint(low, high, shape, generator=make).to(torch.int8)
    scales = (0.01 + torch.rand(SITE.out_features, groups, generator=make)).half().float()
    offsets = -7 * scales if scheme.offset else None
    wide = values.double().unflatten(1, (groups, -1)) * scales.double()[..., None]
    if offsets is not None:
        wide += offsets.double()[..., None]
    return CanonicalWeight(values, scales, offsets), wide.flatten(1)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_quantised_layer_multiplies_like_its_values(machine: Machine, name: str) -> None:
    scheme = SCHEMES[name]
    assert NativeLinear.supports(scheme, SITE, CAPS) == ()
    kernel = NativeLinear(scheme, SITE, Device(machine))
    weight, values = canonical(scheme, 1)
    make = torch.Generator().manual_seed(2)
    x, bias = torch.randn(9, SITE.in_features, generator=make), torch.randn(SITE.out_features)
    expected = x.double() @ values.T + bias
    error = (kernel.apply(x, kernel.repack(weight), bias) - expected).norm() / expected.norm()
    # Inputs are rounded to 8 bits where the scheme asks for it, offsets are stored in float16.
    assert error < (1.2e-2 if scheme.activation else 1e-3 if scheme.offset else 1e-4)


@pytest.mark.parametrize("name", SCHEMES)
def test_one_thread_gives_the_numbers_of_all(
    machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = SCHEMES[name]
    kernel = NativeLinear(scheme, SITE, Device(machine))
    packed = kernel.repack(canonical(scheme, 1)[0])
    x = torch.randn(9, SITE.in_features, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(native, "_LONE_BYTES", 1 << 30)
    alone = kernel.apply(x, packed)
    monkeypatch.setattr(native, "_LONE_BYTES", 0)
    assert torch.equal(kernel.apply(x, packed), alone)


def test_a_layer_of_one_group_multiplies_like_its_values(machine: Machine) -> None:
    scheme, site = QuantScheme("int8"), LinearSite(32, 48, "float32")
    assert NativeLinear.supports(scheme, site, CAPS) == ()
    kernel = NativeLinear(scheme, site, Device(machine))
    make = torch.Generator().manual_seed(4)
    values = torch.randint(-128, 128, (48, 32), generator=make).to(torch.int8)
    scales = (torch.rand(48, 1, generator=make) + 0.1).half().float()
    x = torch.randn(5, 32, generator=make)
    expected = x.double() @ (values * scales).double().T
    got = kernel.apply(x, kernel.repack(CanonicalWeight(values, scales)))
    assert (got - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (QuantScheme("fp8_e4m3"), "fp8_e4m3"),
        (QuantScheme("int4", group=16), "group 16"),
        (QuantScheme("int8", group=48), "group 48"),
        (QuantScheme("int4", group=128, reordered=True), "activation order"),
        (QuantScheme("int8", activation="int8", activation_scale="static"), "static"),
    ],
)
def test_what_the_kernels_cannot_multiply_is_refused_with_its_reason(
    scheme: QuantScheme, reason: str
) -> None:
    assert any(reason in told for told in NativeLinear.supports(scheme, SITE, CAPS))
