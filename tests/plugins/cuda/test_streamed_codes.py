"""The kernels in CUDA C++ compile for each generation and, on a card, give what is right."""

from dataclasses import asdict, dataclass

import pytest
import torch

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.quantization.reference import dequantize, requantize_input
from inferplane_cuda.programs import compile_source, compiler_problem, read_source

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


def test_offsets_of_whole_outputs_are_left_to_others() -> None:
    from inferplane_cuda.quantization.kernels import StreamedWeights

    site = LinearSite(256, 64, "bfloat16")
    told = StreamedWeights.supports(QuantScheme("int8", offset=True), site, _CAPS)
    assert "adds offsets for groups of inputs only" in told
    assert "adds offsets for groups of inputs only" not in StreamedWeights.supports(
        QuantScheme("int8", 64, offset=True), site, _CAPS
    )


def _weight(scheme: QuantScheme, outputs: int, inputs: int) -> CanonicalWeight:
    groups = inputs // scheme.group if scheme.group else 1
    scales = (torch.rand(outputs, groups, device="cuda") + 0.5) / 100
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(outputs, inputs, device="cuda").to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, (outputs, inputs), device="cuda", dtype=torch.int8)
    offsets = torch.randn(outputs, groups, device="cuda") / 10 if scheme.offset else None
    order = torch.randperm(inputs, device="cuda") if scheme.reordered else None
    given = torch.tensor([0.01], device="cuda") if scheme.activation_scale == "static" else None
    return CanonicalWeight(values, scales, offsets, order, given)
