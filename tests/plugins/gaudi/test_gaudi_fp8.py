"""fp8 with a range of 240: what is stored stands for the checkpoint's numbers, code by code."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from inferplane.interfaces import (  # noqa: E402  (after the check that there is one)
    CanonicalWeight,
    Capabilities,
    LinearSite,
    Probe,
    QuantScheme,
)
from inferplane.ops.reference.quantize import quantize_activation  # noqa: E402
from inferplane_gaudi.emulation import EmulatedGaudi  # noqa: E402
from inferplane_gaudi.platform import Gaudi  # noqa: E402
from inferplane_gaudi.quantization.fp8 import OcpFp8, ScaledFp8  # noqa: E402
from inferplane_gaudi.quantization.range240 import to_range240  # noqa: E402
from inferplane_gaudi.runtime import HpuRuntime  # noqa: E402

GENERATIONS = ("gaudi", "gaudi2", "gaudi3")
SCHEME = QuantScheme("fp8_e4m3", activation="fp8_e4m3")
SITE = LinearSite(64, 48, "bfloat16")
CODES = torch.arange(256, dtype=torch.uint8)
FINITE = CODES[(CODES & 0x7F) != 0x7F].view(torch.float8_e4m3fn)


@pytest.fixture(scope="module")
def runtime() -> HpuRuntime:
    return HpuRuntime(EmulatedGaudi()._open())


def test_a_row_within_the_range_keeps_its_codes() -> None:
    small = FINITE[FINITE.float().abs() <= 240][None]
    codes, scales = to_range240(small, torch.full((1, 1), 0.5))
    assert torch.equal(codes.view(torch.uint8), small.view(torch.uint8)) and scales.item() == 0.5


def test_a_row_beyond_it_is_halved_and_loses_the_last_bit_of_subnormals_at_most() -> None:
    codes, scales = to_range240(FINITE[None], torch.ones(1, 1))
    meant, values = (codes.float() * scales)[0], FINITE.float()
    assert codes.float().abs().max() == 224 and scales.item() == 2.0
    normal = values.abs() >= 2.0**-5
    assert torch.equal(meant[normal], values[normal])
    assert (meant - values).abs().max() <= 2.0**-9


def test_codes_that_are_no_numbers_stay_so() -> None:
    nan = torch.tensor([[0x7F, 0x7E]], dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert to_range240(nan, torch.ones(1, 1))[0].float()[0].isnan().tolist() == [True, False]


@pytest.mark.parametrize(("generation", "kind"), [("gaudi2", ScaledFp8), ("gaudi3", OcpFp8)])
@pytest.mark.parametrize("extent", ["token", "tensor", "static"])
def test_the_product_is_the_reference_s(
    extent: str,
    generation: str,
    kind: type[ScaledFp8],
    runtime: HpuRuntime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMULATED_GAUDI", generation)
    torch.manual_seed(3)
    values = (torch.randn(SITE.out_features, SITE.in_features) * 100).clamp(-448, 448)
    weight = CanonicalWeight(values.to(torch.float8_e4m3fn), 0.01 + torch.rand(48, 1))
    x = torch.randn(7, SITE.in_features).to(torch.bfloat16)
    if extent == "static":
        weight.input_scale = x.float().abs().amax().reshape(1) / 448
    scheme = QuantScheme("fp8_e4m3", activation="fp8_e4m3", activation_scale=extent)  # type: ignore[arg-type]
    kernel = kind(scheme, SITE, runtime)
    bias = torch.arange(SITE.out_features, dtype=x.dtype)
    got = kernel.apply(x, kernel.repack(weight), bias).float()
    q, scale = quantize_activation(x, "fp8_e4m3_token" if extent == "token" else "fp8_e4m3_tensor")
    want = (q.float() * scale) @ (weight.values.float() * weight.scales).t() + bias.float()
    assert (got - want).norm() / want.norm() < 0.06  # the inputs round to 3 bits twice


def test_without_the_conversion_the_device_would_read_no_numbers(runtime: HpuRuntime) -> None:
    large = torch.full((1, 16), 256.0).to(torch.float8_e4m3fn)
    one = torch.ones(1, 16).to(torch.float8_e4m3fn)
    scale = torch.ones(1, 1)
    multiply = runtime.stack.fp8_product()
    product = multiply(one, False, large, True, None, torch.float32, scale, scale, None, False)
    assert product.isnan().all()


def test_only_products_it_has_are_taken() -> None:
    def against(scheme: QuantScheme, site: LinearSite = SITE, fp8: str = "range240") -> str:
        return "; ".join(ScaledFp8.supports(scheme, site, Capabilities(fp8=fp8)))  # type: ignore[arg-type]

    assert against(SCHEME) == ""
    assert "the device's are none" in against(SCHEME, fp8="none")
    assert "codes are range240" in against(SCHEME, fp8="e4m3fn")
    assert OcpFp8.supports(SCHEME, SITE, Capabilities(fp8="e4m3fn")) == ()
    assert "fp8 activations" in against(QuantScheme("fp8_e4m3"))
    assert "one scale" in against(QuantScheme("fp8_e4m3", 128, activation="fp8_e4m3"))
    assert "gives no float16" in against(SCHEME, LinearSite(64, 48, "float16"))
    assert "experts" in against(SCHEME, LinearSite(64, 48, "bfloat16", 4))


def test_the_third_generation_keeps_a_checkpoint_s_codes(runtime: HpuRuntime) -> None:
    weight = CanonicalWeight(FINITE[:64].repeat(48, 1), torch.full((48, 1), 0.5))
    packed = OcpFp8(SCHEME, SITE, runtime).repack(weight)
    assert torch.equal(packed["codes"].view(torch.uint8), weight.values.view(torch.uint8))
    assert packed["scales"].tolist() == [[0.5] * 48]


def test_each_generation_says_what_its_codes_mean() -> None:
    told = [Gaudi().capabilities(Probe(True, "", arch=a), None).fp8 for a in GENERATIONS]
    assert told == ["none", "range240", "e4m3fn"]
