"""Stacks of quantised matrices against each expert's dequantised one, by kernel and by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.layers.packed_experts import StackedExperts
from inferplane.ops.reference.activation import silu_mul
from inferplane.ops.reference.moe import fused_moe
from inferplane.quantization.reference import dequantize, requantize_input
from inferplane_triton.quantization.weight_only import WeightOnly
from inferplane_triton.tuning import target

CAPS = Capabilities(compute_dtypes=("bfloat16", "float16"), fp8="e4m3fn")
LIMITS = {"bfloat16": 8e-3, "float16": 1e-3}
SCHEMES = {
    "int4 groups": QuantScheme("int4", 32),
    "int4 groups, offsets": QuantScheme("int4", 64, offset=True),
    "int4 per output": QuantScheme("int4"),
    "int8 per output": QuantScheme("int8"),
    "int8 groups, offsets": QuantScheme("int8", 32, offset=True),
    "int8, int8 activations": QuantScheme("int8", activation="int8"),
    "fp8 per output": QuantScheme("fp8_e4m3"),
    "fp8 per tensor": QuantScheme("fp8_e4m3", -1),
    "fp8, fp8 activations": QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
}
SIZES = {"one token": (1, 2, 5, 96, 128), "few": (7, 3, 4, 40, 192), "many": (40, 2, 3, 72, 64)}
"""Rows, choices, experts, outputs, inputs."""


@dataclass
class Device:
    """All a kernel asks of its runtime."""

    torch_device: str


def made(
    scheme: QuantScheme, experts: int, outputs: int, inputs: int, device: str
) -> CanonicalWeight:
    groups = inputs // scheme.group if scheme.group > 0 else 1
    shape = experts, outputs, inputs
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(shape).to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, shape, dtype=torch.int8)
    rows = 1 if scheme.group == -1 else outputs
    scales = (torch.rand(experts, rows, groups) + 0.5) / 100
    offsets = torch.randn(scales.shape) / 10 if scheme.offset else None
    return CanonicalWeight(
        values.to(device), scales.to(device), None if offsets is None else offsets.to(device)
    )


def dense(weight: CanonicalWeight, scheme: QuantScheme) -> Tensor:
    """f64 [E,O,I]"""
    matrices = []
    for expert in range(len(weight.values)):
        one = replace(
            weight,
            values=weight.values[expert],
            scales=weight.scales[expert].expand(weight.values.shape[1], -1),
            offsets=None if weight.offsets is None else weight.offsets[expert],
        )
        matrices.append(dequantize(one, scheme).double())
    return torch.stack(matrices)


def routed(rows: int, experts: int, choices: int, device: str) -> Tensor:
    return torch.rand(rows, experts, device=device).argsort(-1)[:, :choices].int()


def kernel(scheme: QuantScheme, inputs: int, outputs: int, experts: int, dtype: str) -> WeightOnly:
    site = LinearSite(inputs, outputs, dtype, experts)
    assert WeightOnly.supports(scheme, site, CAPS) == ()
    return WeightOnly(scheme, site, Device("cpu"))  # type: ignore[arg-type]


def off(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCHEMES)
def test_each_row_meets_the_matrices_of_its_experts(
    name: str, size: str, dtype: str, device: str
) -> None:
    scheme, (rows, choices, experts, outputs, inputs) = SCHEMES[name], SIZES[size]
    ours = kernel(scheme, inputs, outputs, experts, dtype)
    weight = made(scheme, experts, outputs, inputs, device)
    x = torch.randn(rows, inputs, device=device).to(getattr(torch, dtype))
    ids = routed(rows, experts, choices, device)
    got = ours.apply_each(x, ours.repack(weight), ids)
    seen = requantize_input(x, scheme, None).double()
    wanted = torch.einsum("rki,rkoi->rko", seen[:, None].expand(-1, choices, -1),
                          dense(weight, scheme)[ids.long()]).flatten(0, 1)  # fmt: skip
    assert got.dtype == x.dtype and got.shape == (rows * choices, outputs)
    assert off(got, wanted) < LIMITS[dtype]


def layer(
    scheme: QuantScheme, experts: int, size: int, inner: int, device: str
) -> tuple[StackedExperts, tuple[Tensor, Tensor]]:
    """A layer of stacks in float16, and its dequantised matrices."""
    stacks, matrices = [], []
    for outputs, inputs in ((2 * inner, size), (size, inner)):
        one = kernel(scheme, inputs, outputs, experts, "float16")
        weight = made(scheme, experts, outputs, inputs, device)
        packed = one.repack(weight)
        stacks.append(lambda x, ids, one=one, packed=packed: one.apply_each(x, packed, ids))
        matrices.append(dense(weight, scheme))
    return StackedExperts(stacks[0], stacks[1], silu_mul), (matrices[0], matrices[1])


@pytest.mark.parametrize("rows", [0, 1, 9, 90])
@pytest.mark.parametrize("name", ["int4 groups", "fp8 per output"])
def test_a_layer_of_stacks_is_the_reference_on_the_same_weights(
    name: str, rows: int, device: str
) -> None:
    ours, matrices = layer(SCHEMES[name], 6, 64, 32, device)
    x = torch.randn(rows, 64, device=device).half()
    ids, shares = routed(rows, 6, 2, device), torch.rand(rows, 2, device=device)
    got = ours(x, shares, ids)
    assert got.dtype == x.dtype and got.shape == x.shape
    if rows:
        assert off(got, fused_moe(x.double(), *matrices, shares, ids, "silu").double()) < 2e-3


def test_all_rows_may_choose_the_same_expert(device: str) -> None:
    scheme = SCHEMES["int4 groups, offsets"]
    ours, weight = kernel(scheme, 64, 48, 5, "float16"), made(scheme, 5, 48, 64, device)
    x = torch.randn(70, 64, device=device).half()
    ids = torch.full((70, 1), 3, dtype=torch.int32, device=device)
    got = ours.apply_each(x, ours.repack(weight), ids)
    assert off(got, x.double() @ dense(weight, scheme)[3].t()) < 1e-3


@pytest.mark.parametrize(
    "change", [{"reordered": True}, {"activation": "int8", "activation_scale": "static"}]
)
def test_what_differs_from_expert_to_expert_in_other_ways_is_refused(
    change: dict[str, object],
) -> None:
    scheme = replace(SCHEMES["int8 per output"], **change)  # type: ignore[arg-type]
    assert WeightOnly.supports(scheme, LinearSite(64, 64, "float16"), CAPS) == ()
    (reason,) = WeightOnly.supports(scheme, LinearSite(64, 64, "float16", 4), CAPS)
    assert "stacks of experts" in reason


@pytest.mark.skipif(target().backend == "interpreter", reason="there is nothing to capture")
def test_a_captured_layer_follows_other_routes(device: str) -> None:
    ours, matrices = layer(SCHEMES["int4 groups"], 16, 128, 64, device)
    x, shares = torch.randn(20, 128, device=device).half(), torch.rand(20, 4, device=device)
    ids = routed(20, 16, 4, device)
    ours(x, shares, ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = ours(x, shares, ids)
    for _ in range(3):
        ids.copy_(routed(20, 16, 4, device))
        graph.replay()
        wanted = fused_moe(x.double(), *matrices, shares, ids, "silu").double()
        assert off(got, wanted) < 2e-3
