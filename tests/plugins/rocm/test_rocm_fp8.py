"""fp8 products in both flavours on the processor, whose library reads e4m3fnuz as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.ops.reference.quantize import quantize_activation
from inferplane_rocm.quantization.flavours import FNUZ_SCALE, to_fnuz
from inferplane_rocm.quantization.fp8 import ScaledFp8
from inferplane_rocm.runtime import RocmRuntime

CODES = torch.arange(256, dtype=torch.uint8)
SCHEME = QuantScheme("fp8_e4m3", activation="fp8_e4m3")
SITE = LinearSite(64, 48, "bfloat16")


class NamedRuntime(RocmRuntime):
    """A generation by name; its matrices lie in host memory."""

    def __init__(self, arch: str) -> None:
        self.torch_device = "cpu"
        self.arch = arch


def weight() -> CanonicalWeight:
    values = torch.randn(SITE.out_features, SITE.in_features).to(torch.float8_e4m3fn)
    values.view(torch.uint8)[0, :8] = 0x80
    return CanonicalWeight(values, 0.01 + torch.rand(SITE.out_features, 1))


def product(arch: str, x: Tensor, given: CanonicalWeight, scheme: QuantScheme = SCHEME) -> Tensor:
    kernel = ScaledFp8(scheme, SITE, NamedRuntime(arch))
    return kernel.apply(x, kernel.repack(given), torch.arange(SITE.out_features, dtype=x.dtype))


def test_every_finite_code_keeps_its_value_and_nan_stays_nan() -> None:
    old = CODES.view(torch.float8_e4m3fn)
    new = to_fnuz(old).float() * FNUZ_SCALE
    finite = old.float().isfinite()
    assert torch.equal(new[finite], old.float()[finite]) and int(finite.sum()) == 254
    assert new[~finite].isnan().all()


def test_without_the_conversion_numbers_would_be_wrong_in_silence() -> None:
    assert CODES[0x7F:0x80].view(torch.float8_e4m3fnuz).float().item() == 240
    assert CODES[0x80:0x81].view(torch.float8_e4m3fnuz).float().isnan().all()


@pytest.mark.parametrize("extent", ["token", "tensor", "static"])
def test_both_flavours_compute_the_same_numbers(extent: str) -> None:
    torch.manual_seed(3)
    given, x = weight(), torch.randn(7, SITE.in_features).to(torch.bfloat16)
    if extent == "static":
        given.input_scale = torch.tensor([0.02])
    scheme = QuantScheme("fp8_e4m3", activation="fp8_e4m3", activation_scale=extent)  # type: ignore[arg-type]
    old, new = (product(arch, x, given, scheme) for arch in ("gfx950", "gfx942"))
    torch.testing.assert_close(new, old, rtol=1e-2, atol=1e-2)
    if extent == "token":
        q, scale = quantize_activation(x, "fp8_e4m3_token")
        want = (q.float() * scale) @ (given.values.float() * given.scales).t()
        want += torch.arange(SITE.out_features)
        torch.testing.assert_close(new.float(), want, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_a_row_that_is_no_number_does_not_become_one(arch: str) -> None:
    x = torch.ones(2, SITE.in_features, dtype=torch.bfloat16)
    x[0, 5] = torch.nan
    out = product(arch, x, weight())
    assert out[0].isnan().all() and out[1].isfinite().all()


def test_only_products_it_has_are_taken() -> None:
    def against(scheme: QuantScheme, site: LinearSite = SITE, fp8: str = "e4m3fnuz") -> str:
        return "; ".join(ScaledFp8.supports(scheme, site, Capabilities(fp8=fp8)))  # type: ignore[arg-type]

    assert against(SCHEME) == against(SCHEME, fp8="e4m3fn") == ""
    assert "multiplies no fp8" in against(SCHEME, fp8="none")
    assert "fp8 activations" in against(QuantScheme("fp8_e4m3"))
    assert "one scale" in against(QuantScheme("fp8_e4m3", 128, activation="fp8_e4m3"))
    assert "multiples of 16" in against(SCHEME, LinearSite(40, 48, "bfloat16"))
    assert "experts" in against(SCHEME, LinearSite(64, 48, "bfloat16", 4))
