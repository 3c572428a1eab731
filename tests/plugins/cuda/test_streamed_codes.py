"""The kernels in CUDA C++ compile for each generation and, on a card, give what is right."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pytest
import torch

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.ops.reference.quantize import quantize_activation
from inferplane.quantization.reference import dequantize, requantize_input
from inferplane_cuda.programs import Program, compile_source, compiler_problem, read_source
from inferplane_cuda.quantization import packing, stream

SCHEMES = {
    "int4 in groups": QuantScheme("int4", 128),
    "int4 in small groups with offsets": QuantScheme("int4", 32, offset=True),
    "int4 reordered": QuantScheme("int4", 64, reordered=True),
    "int8": QuantScheme("int8"),
    "int8 in small groups": QuantScheme("int8", 32),
    "int8 with offsets": QuantScheme("int8", 64, offset=True),
    "fp8 weights": QuantScheme("fp8_e4m3"),
    "fp8 by fp8": QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
    "fp8 by fp8, one input scale": QuantScheme("fp8_e4m3", 0, activation="fp8_e4m3",
                                               activation_scale="static"),
    "int8 by int8": QuantScheme("int8", activation="int8"),
}  # fmt: skip
_CAPS = Capabilities(compute_dtypes=("bfloat16", "float16"), fp8="e4m3fn")


@dataclass(frozen=True)
class _Device:
    torch_device: str = "cuda"


needs_compiler = pytest.mark.skipif(bool(compiler_problem()), reason=compiler_problem())
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", SCHEMES)
def test_every_variant_compiles(name: str, arch: str) -> None:
    from inferplane_cuda.quantization.stream import SOURCES, needed, variant_of

    scheme = SCHEMES[name]
    if scheme.activation == "fp8_e4m3" and arch == "sm_80":
        pytest.skip("the first generation with fp8 is sm_89")
    source = read_source("inferplane_cuda.quantization", SOURCES)
    for variant in needed(variant_of(scheme, "bfloat16"), 4096):
        assert compile_source(source, "stream.cu", asdict(variant), arch)


@needs_card
@needs_compiler
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SCHEMES)
def test_results_are_those_of_the_reference(name: str, dtype: str) -> None:
    from inferplane_cuda.quantization.kernels import StreamedFp8, StreamedInt8, StreamedWeights

    scheme = SCHEMES[name]
    for outputs, inputs in ((208, 256), (16416, 640), (512, 14336)):
        site = LinearSite(inputs, outputs, dtype)
        kinds = (StreamedFp8, StreamedInt8, StreamedWeights)
        kind = next((k for k in kinds if not k.supports(scheme, site, _CAPS)), None)
        if kind is None:
            pytest.skip(f"{dtype}: {StreamedFp8.supports(scheme, site, _CAPS)}")
        kernel = kind(scheme, site, _Device())
        weight = _weight(scheme, outputs, inputs)
        packed = kernel.repack(weight)
        torch.cuda.synchronize()  # weights are final before a kernel reads them
        exact = dequantize(weight, scheme).double().t()
        for rows in (1, 2, 3, 5, 8, 9, 17, 33, 100, 129, 300):
            x = torch.randn(rows, inputs + 64, device="cuda").to(getattr(torch, dtype))[:, :inputs]
            bias = torch.randn(outputs, device="cuda").to(x.dtype) if rows % 2 else None
            # on the processor: torch's GPU division by a number is off by a last bit, and ties move
            given = None if weight.input_scale is None else weight.input_scale.cpu()
            rounded = requantize_input(x.cpu(), scheme, given).cuda()
            want = rounded.double() @ exact
            if bias is not None:
                want += bias.double()
            got = kernel.apply(x, packed, bias).double()
            error = float((got - want).norm() / want.norm())
            assert error < 6e-3, (name, dtype, outputs, inputs, rows, error)


@pytest.mark.parametrize(
    ("name", "eager"),
    [
        *((name, True) for name in SCHEMES if not SCHEMES[name].reordered),
        ("int4 in small groups with offsets", False),
        ("fp8 by fp8", False),
    ],
)
def test_every_lane_finds_what_float64_gives(
    name: str, eager: bool, emulated: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor: two tiles a block, inputs that are no whole rounds of its warps."""
    scheme, outputs, inputs = SCHEMES[name], 200, 576 if SCHEMES[name].group < 128 else 640

    def program(variant: stream.Variant) -> Program:
        names = stream.SOURCES
        return emulated("inferplane_cuda.quantization", names, asdict(variant), eager=eager)

    monkeypatch.setattr(stream, "_program", program)
    weight = _weight(scheme, outputs, inputs, "cpu")
    exact = dequantize(weight, scheme).double().t()
    packed, given = _packed(weight, scheme), weight.input_scale
    variant = stream.variant_of(scheme, "bfloat16", given is not None)
    for rows in (1, 9):
        x = torch.randn(rows, inputs + 64).bfloat16()[:, :inputs]
        bias = torch.randn(outputs).bfloat16() if rows > 1 else None
        want = requantize_input(x, scheme, given).double() @ exact
        if bias is not None:
            want += bias.double()
        given_x, chosen = (x, given), variant
        if scheme.activation == "int8" and rows > 1:
            given_x, chosen = quantize_activation(x, "int8_token"), replace(variant, INPUT=2)
        elif scheme.activation and rows > 1:
            continue  # more rows than are rounded on the way
        got = stream.stream(
            chosen, given_x[0], packed, outputs, bias, torch.bfloat16, given_x[1]
        ).double()
        assert float((got - want).norm() / want.norm()) < 6e-3, rows
    if not scheme.activation:
        wide = stream.widen(variant, packed, outputs, inputs, torch.bfloat16).double()
        assert float((wide - exact.t()).norm() / exact.norm()) < 6e-3


def _packed(weight: CanonicalWeight, scheme: QuantScheme) -> dict[str, torch.Tensor]:
    """As the kernels lay it down, without their product for many rows."""
    if scheme.activation:
        codes = weight.values.contiguous()
        return {"codes": codes, "scales": weight.scales.float().flatten().contiguous()}
    pack = packing.pack_nibbles if scheme.weight == "int4" else packing.pack_bytes
    laid = {"codes": pack(weight.values)}
    for name, kinds in (("scales", weight.scales), ("offsets", weight.offsets)):
        if kinds is not None:
            laid[name] = packing.pack_scales(kinds, weight.values.shape[:-1])
    return laid


def test_offsets_of_whole_outputs_are_left_to_others() -> None:
    from inferplane_cuda.quantization.kernels import StreamedWeights

    site = LinearSite(256, 64, "bfloat16")
    told = StreamedWeights.supports(QuantScheme("int8", offset=True), site, _CAPS)
    assert "adds offsets for groups of inputs only" in told
    assert "adds offsets for groups of inputs only" not in StreamedWeights.supports(
        QuantScheme("int8", 64, offset=True), site, _CAPS
    )


def _weight(
    scheme: QuantScheme, outputs: int, inputs: int, device: str = "cuda"
) -> CanonicalWeight:
    groups = inputs // scheme.group if scheme.group else 1
    scales = (torch.rand(outputs, groups, device=device) + 0.5) / 100
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(outputs, inputs, device=device).to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, (outputs, inputs), device=device, dtype=torch.int8)
    offsets = torch.randn(outputs, groups, device=device) / 10 if scheme.offset else None
    order = torch.randperm(inputs, device=device) if scheme.reordered else None
    given = torch.tensor([0.01], device=device) if scheme.activation_scale == "static" else None
    return CanonicalWeight(values, scales, offsets, order, given)
