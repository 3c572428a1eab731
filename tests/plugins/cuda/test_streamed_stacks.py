"""Stacks of experts in CUDA C++: compiled for each generation, run lane by lane on a processor, and
on a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from torch import Tensor

from inferplane.interfaces import (
    CanonicalWeight,
    Capabilities,
    LinearSite,
    QuantKernel,
    QuantScheme,
)
from inferplane.ops.reference.quantize import quantize_activation
from inferplane.quantization.reference import dequantize, requantize_input
from inferplane_cuda.programs import Program, compile_source, compiler_problem, read_source
from inferplane_cuda.quantization import packing, stream
from inferplane_cuda.quantization.kernels import StreamedFp8, StreamedInt8, StreamedWeights
from inferplane_triton.gpu.runtime import GpuRuntime
from inferplane_triton.kernels.stacks import Routes

SCHEMES = {
    "int4 in groups": QuantScheme("int4", 64),
    "int4 in small groups with offsets": QuantScheme("int4", 32, offset=True),
    "int8": QuantScheme("int8"),
    "int8 with offsets": QuantScheme("int8", 64, offset=True),
    "fp8 weights": QuantScheme("fp8_e4m3"),
    "fp8 by fp8": QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
    "int8 by int8": QuantScheme("int8", activation="int8"),
}
KINDS: tuple[type[QuantKernel], ...] = (StreamedFp8, StreamedInt8, StreamedWeights)
CAPS = Capabilities(compute_dtypes=("bfloat16", "float16"), fp8="e4m3fn")
needs_compiler = pytest.mark.skipif(bool(compiler_problem()), reason=compiler_problem())
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@dataclass(frozen=True)
class Device:
    """All a kernel asks of its runtime."""

    torch_device: str = "cuda"


def made(scheme: QuantScheme, shape: tuple[int, int, int], device: str) -> CanonicalWeight:
    groups = shape[2] // scheme.group if scheme.group else 1
    scales = (torch.rand(*shape[:2], groups, device=device) + 0.5) / 100
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(shape, device=device).to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, shape, device=device, dtype=torch.int8)
    offsets = torch.randn(scales.shape, device=device) / 10 if scheme.offset else None
    return CanonicalWeight(values, scales, offsets)


def expected(x: Tensor, weight: CanonicalWeight, scheme: QuantScheme, ids: Tensor) -> Tensor:
    """f64[R*k,O]; activations rounded on the processor, where ties are the reference's."""
    offsets = weight.offsets if weight.offsets is not None else [None] * len(weight.values)
    dense = torch.stack(
        [
            dequantize(CanonicalWeight(*both), scheme).double()
            for both in zip(weight.values, weight.scales, offsets, strict=True)
        ]
    )
    seen = requantize_input(x.cpu(), scheme, None).to(x.device).double()
    return torch.stack(
        [dense[expert] @ seen[row] for row, chosen in enumerate(ids.tolist()) for expert in chosen]
    )


def off(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", SCHEMES)
def test_every_variant_compiles(name: str, arch: str) -> None:
    scheme = SCHEMES[name]
    if scheme.activation == "fp8_e4m3" and arch == "sm_80":
        pytest.skip("the first generation with fp8 is sm_89")
    source = read_source("inferplane_cuda.quantization", stream.SOURCES)
    variant = stream.variant_of(scheme, "bfloat16", experts=128)
    if scheme.activation:
        variant = replace(variant, INPUT=2)
    for one in stream.needed(variant, 2048):
        assert one.STACK == 128
        assert compile_source(source, "stream.cu", asdict(one), arch)


@pytest.mark.parametrize(("rows", "choices", "experts"), [(1, 2, 5), (9, 3, 40), (21, 1, 2)])
@pytest.mark.parametrize("name", SCHEMES)
def test_every_lane_finds_what_float64_gives(
    name: str,
    rows: int,
    choices: int,
    experts: int,
    emulated: Callable[..., Program],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a processor: experts without rows, with several tiles of them, and more than lanes."""
    scheme, outputs, inputs = SCHEMES[name], 96, 192
    if experts > 32 and name != "int4 in groups":
        experts, rows = 7, 5

    def program(variant: stream.Variant) -> Program:
        names = stream.SOURCES
        return emulated("inferplane_cuda.quantization", names, asdict(variant), eager=rows == 1)

    monkeypatch.setattr(stream, "_program", program)
    weight = made(scheme, (experts, outputs, inputs), "cpu")
    ids = torch.rand(rows, experts).argsort(1)[:, :choices].int()
    order = ids.flatten().argsort(stable=True).int()
    counts = torch.bincount(ids.flatten(), minlength=experts).int()
    routes = Routes(order, counts, choices)
    x = torch.randn(rows, inputs + 64).bfloat16()[:, :inputs]
    variant = stream.variant_of(scheme, "bfloat16", experts=experts)
    given: tuple[Tensor, Tensor | None] = x, None
    if scheme.activation:
        variant = replace(variant, INPUT=2)
        given = quantize_activation(x, f"{scheme.activation}_token")
        packed = {
            "codes": weight.values.flatten(0, 1).contiguous(),
            "scales": weight.scales.flatten().contiguous(),
        }
    else:
        pack = packing.pack_nibbles if scheme.weight == "int4" else packing.pack_bytes
        packed = {"codes": torch.cat([pack(one) for one in weight.values])}
        for part, kinds in (("scales", weight.scales), ("offsets", weight.offsets)):
            if kinds is not None:
                packed[part] = packing.pack_scales(kinds, weight.values.shape[:-1])
    got = stream.stream_stack(variant, given[0], packed, outputs, torch.bfloat16, routes, given[1])
    assert off(got, expected(x, weight, scheme, ids)) < 6e-3


@needs_card
@needs_compiler
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SCHEMES)
def test_results_are_those_of_the_reference(name: str, dtype: str) -> None:
    scheme = SCHEMES[name]
    for experts, outputs, inputs in ((128, 64, 256), (6, 1536, 2048), (60, 2048, 768)):
        site = LinearSite(inputs, outputs, dtype, experts)
        kind = next((k for k in KINDS if not k.supports(scheme, site, CAPS)), None)
        if kind is None:
            pytest.skip(f"{dtype}: {StreamedFp8.supports(scheme, site, CAPS)}")
        kernel = kind(scheme, site, Device())  # type: ignore[arg-type]
        weight = made(scheme, (experts, outputs, inputs), "cuda")
        packed = kernel.repack(weight)
        torch.cuda.synchronize()  # weights are final before a kernel reads them
        for rows, choices in ((1, 6), (3, 2), (33, 1), (100, 4), (700, 5)):
            x = torch.randn(rows, inputs + 64, device="cuda").to(getattr(torch, dtype))[:, :inputs]
            ids = torch.rand(rows, experts, device="cuda").argsort(1)[:, :choices].int()
            got = kernel.apply_each(x, packed, ids)
            assert got.shape == (rows * choices, outputs) and got.dtype == x.dtype
            assert off(got, expected(x, weight, scheme, ids)) < 6e-3, (experts, rows, choices)
        none = kernel.apply_each(x[:0], packed, ids[:0])
        assert none.shape == (0, outputs)


@needs_card
@needs_compiler
def test_a_captured_product_follows_other_routes() -> None:
    scheme, site = SCHEMES["int4 in groups"], LinearSite(256, 96, "bfloat16", 16)
    kernel = StreamedWeights(scheme, site, Device())  # type: ignore[arg-type]
    weight = made(scheme, (16, 96, 256), "cuda")
    packed = kernel.repack(weight)
    x = torch.randn(20, 256, device="cuda").bfloat16()
    ids = torch.rand(20, 16, device="cuda").argsort(1)[:, :4].int().contiguous()
    kernel.apply_each(x, packed, ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = kernel.apply_each(x, packed, ids)
    for _ in range(3):
        ids.copy_(torch.rand(20, 16, device="cuda").argsort(1)[:, :4].int())
        graph.replay()
        assert off(got, expected(x, weight, scheme, ids)) < 6e-3


@pytest.mark.parametrize(
    ("change", "outputs", "word"),
    [
        ({"reordered": True}, 64, "orders"),
        ({}, 72, "multiple of 32"),
    ],
)
def test_stacks_that_it_cannot_lay_down_are_refused(
    change: dict[str, object], outputs: int, word: str
) -> None:
    scheme = replace(SCHEMES["int4 in groups"], **change)  # type: ignore[arg-type]
    reasons = StreamedWeights.supports(scheme, LinearSite(256, outputs, "bfloat16", 4), CAPS)
    assert any(word in reason for reason in reasons)
    plain = StreamedWeights.supports(scheme, LinearSite(256, outputs, "bfloat16"), CAPS)
    assert not any(word in reason for reason in plain)


@pytest.mark.parametrize("name", ["int4 in groups", "fp8 by fp8"])
def test_a_rehearsed_step_launches_nothing_over_routes_that_nobody_sorted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = SCHEMES[name]
    device = GpuRuntime.__new__(GpuRuntime)
    monkeypatch.setattr(GpuRuntime, "rehearsing", True)
    monkeypatch.setattr(stream, "_program", lambda variant: None)
    unsorted = Routes(torch.full((6,), 9_999_999), torch.full((4,), -7), 2)
    monkeypatch.setattr(Routes, "of", lambda ids, experts: unsorted)
    monkeypatch.setattr(StreamedFp8, "_round", lambda self, x, given: (x, x))
    kind = StreamedFp8 if scheme.activation else StreamedWeights
    kernel = kind.__new__(kind)
    kernel._site, kernel._device = LinearSite(256, 64, "bfloat16", 4), device
    kernel._variant = kernel._rounded = stream.variant_of(scheme, "bfloat16", experts=4)
    kernel._stacks = kernel
    x = torch.zeros(3, 256, dtype=torch.bfloat16)
    assert kernel.apply_each(x, {}, torch.zeros(3, 2, dtype=torch.int32)).shape == (6, 64)
