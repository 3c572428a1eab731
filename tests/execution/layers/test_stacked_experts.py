"""Quantised experts as stacks: which kernel takes them, how they are loaded, what comes of them."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from inferplane.errors import UnsupportedError
from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import (
    CanonicalWeight,
    Capabilities,
    Communicator,
    EngineConfig,
    LinearSite,
    QuantKernel,
    QuantScheme,
    Reasons,
)
from inferplane.layers.build import Builder
from inferplane.layers.moe import MoeMlp
from inferplane.layers.packed_experts import PackedExperts, StackedExperts
from inferplane.model_config import ModelConfig, MoeConfig, RopeConfig
from inferplane.ops.bind import Binder
from inferplane.quantization.online import Online
from inferplane.quantization.reference import dequantize
from inferplane.registry import Catalogue, Entry

SIZE, INNER, EXPERTS, ACTIVE = 64, 128, 5, 2
MOE = MoeConfig(EXPERTS, ACTIVE, INNER, renormalize=True)
PARTS = {"gate_proj": (INNER, SIZE), "up_proj": (INNER, SIZE), "down_proj": (SIZE, INNER)}


class Single(QuantKernel):
    """Multiplies one matrix by what its weight means."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: Any) -> None:
        self.scheme = scheme

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        return ()

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        return {"w": dequantize(weight, self.scheme)}

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        return x @ packed["w"].t()


class Stacked(Single):
    """Multiplies a stack too, each row by its own experts' matrices."""

    def apply_each(self, x: Tensor, packed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        found = torch.einsum("ri,rkoi->rko", x, packed["w"][ids.long()])
        return found.flatten(0, 1)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        if weight.values.dim() == 2:
            return super().repack(weight)
        return {"w": torch.stack([dequantize(one, self.scheme) for one in each(weight)])}


class Half(Stacked):
    """Takes stacks of the first product alone."""

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        return ("no",) if site.num_experts and site.in_features == INNER else ()


def each(weight: CanonicalWeight) -> list[CanonicalWeight]:
    return [CanonicalWeight(*both) for both in zip(weight.values, weight.scales, strict=True)]


class Alone(Communicator):
    """One rank of two, without the other."""

    def __init__(self, rank: int) -> None:
        self.rank, self.world_size = rank, 2

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        return x


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("acme_stacks")
    module.__dict__.update(Single=Single, Stacked=Stacked, Half=Half)
    monkeypatch.setitem(sys.modules, "acme_stacks", module)
    yield


def built(
    names: tuple[str, ...], static: bool = True, rank: int | None = None, **engine: Any
) -> Builder:
    """For a device whose shapes are fixed: it may not read a routing on the host."""
    entries = [
        ("quantization_kernels", Entry(name.lower(), f"acme_stacks:{name}", "acme"))
        for name in names
    ]
    entries.append(
        ("quantization_formats", Entry("online", "inferplane.quantization.online:Online", "core"))
    )
    config = ModelConfig(
        architecture="X",
        model_type="x",
        num_layers=1,
        hidden_size=SIZE,
        intermediate_size=INNER,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        vocab_size=8,
        max_position=8,
        dtype="float32",
        norm_eps=1e-5,
        activation="silu",
        rope=RopeConfig(),
        window_rope=RopeConfig(),
        layer_windows=(None,),
        attention_scale=1.0,
        tie_embeddings=True,
        moe=MOE,
        quantization={"quant_method": "online", "weights": "int8"},
    )
    caps = Capabilities(static_shapes=static)
    binder = Binder(Catalogue(entries), ("acme",), caps, EngineConfig("m", **engine))
    place = (rank, 2, Alone(rank)) if rank is not None else (0, 1, None)
    return Builder(config, binder, torch.float32, "cpu", *place, HostRuntime())


def weights() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    found = {"mlp.gate.weight": torch.randn(EXPERTS, SIZE, generator=random)}
    for expert in range(EXPERTS):
        for name, shape in PARTS.items():
            matrix = torch.randn(shape, generator=random) * 0.3
            found[f"mlp.experts.{expert}.{name}.weight"] = matrix
    return found


def layer(build: Builder, backwards: bool = False) -> MoeMlp:
    made = MoeMlp(build, "mlp", MOE)
    tensors = list(weights().items())
    build.weights.load(tensors[::-1] if backwards else tensors)
    return made


def x() -> Tensor:
    return torch.randn(6, SIZE, generator=torch.Generator().manual_seed(4))


def chosen(build: Builder) -> set[tuple[str, str]]:
    """(kernel, "stack" or "matrix") of the choices that were noted."""
    found = (choice for choice in build.binder.choices if choice.kind == "quantization")
    return {(one.name, "stack" if "experts" in one.site else "matrix") for one in found}


@pytest.mark.parametrize("backwards", [False, True])
def test_stacks_compute_what_a_kernel_for_each_matrix_does(backwards: bool) -> None:
    build = built(("Stacked",))
    stacked = layer(build, backwards)
    assert isinstance(stacked._packed, StackedExperts)
    assert ("stacked", "stack") in chosen(build)
    singly = layer(built(("Single",)))
    assert isinstance(singly._packed, PackedExperts)
    torch.testing.assert_close(stacked(x()), singly(x()), atol=1e-5, rtol=1e-4)
    assert not any("quantized" in name for name in build.binder.fallbacks)


def test_ranks_divide_the_stacks() -> None:
    whole = layer(built(("Stacked",)))(x())
    parts = [layer(built(("Stacked",), rank=rank)) for rank in (0, 1)]
    assert all(isinstance(part._packed, StackedExperts) for part in parts)
    summed = parts[0](x()) + parts[1](x())
    # a rank's inputs of the last product have a scale of their own
    assert float((summed - whole).norm() / whole.norm()) < 0.02


def test_where_the_routing_can_be_read_each_matrix_has_its_kernel() -> None:
    assert isinstance(layer(built(("Stacked",), static=False))._packed, PackedExperts)


@pytest.mark.parametrize("names", [("Single",), ("Half",)])
def test_kernels_that_do_not_take_both_stacks_serve_matrices(names: tuple[str, ...]) -> None:
    build = built(names)
    assert isinstance(layer(build)._packed, PackedExperts)
    assert not any("quantized" in name for name in build.binder.fallbacks)


def test_a_kernel_that_the_user_names_is_the_only_one_asked_for_stacks() -> None:
    build = built(("Stacked", "Single"), kernels={"quantization": "single"})
    assert isinstance(layer(build)._packed, PackedExperts)
    assert chosen(build) == {("single", "matrix")}
    again = built(("Single", "Stacked"), kernels={"quantization": "stacked"})
    assert isinstance(layer(again)._packed, StackedExperts)


def test_made_up_weights_fill_stacks() -> None:
    results = []
    for seed in (1, 1, 2):
        build = built(("Stacked",))
        made = MoeMlp(build, "mlp", MOE)
        build.weights.load(build.weights.dummies(seed))
        results.append(made(x()))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_a_kernel_without_stacks_says_so() -> None:
    scheme = Online({"weights": "int8"}).scheme("mlp.experts.0.up_proj")
    assert scheme is not None
    kernel = Single(scheme, LinearSite(SIZE, INNER, "float32"), None)
    with pytest.raises(UnsupportedError, match="apply_each"):
        kernel.apply_each(x(), {}, torch.zeros(6, 1, dtype=torch.int32))
