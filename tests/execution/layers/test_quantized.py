"""Quantised layers: a kernel where one fits, the reference otherwise, and the same sums."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
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
from inferplane.layers.quantized import JoinedLinear, QuantizedLinear
from inferplane.loading.weights import WeightTable
from inferplane.model_config import ModelConfig, RopeConfig
from inferplane.ops.bind import Binder
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.gptq import Gptq
from inferplane.quantization.packing import pack
from inferplane.quantization.reference import dequantize
from inferplane.registry import Catalogue, Entry

HIDDEN, GROUP = 64, 32
GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "sym": False,
    "checkpoint_format": "gptq_v2",
}


class Exact(QuantKernel):
    """Multiplies in float64 by what the weight means; refuses eight bits."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: Any) -> None:
        self.scheme = scheme

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        return () if scheme.weight == "int4" else (f"{scheme.weight}: only int4",)

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        return {"w": dequantize(weight, self.scheme).double()}

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        y = x.double() @ packed["w"].t()
        return (y if bias is None else y + bias).to(x.dtype)


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
    module = types.ModuleType("acme_kernels")
    module.__dict__["Exact"] = Exact
    monkeypatch.setitem(sys.modules, "acme_kernels", module)
    yield


def builder(
    quantization: Mapping[str, object] = GPTQ,
    kernel: bool = True,
    rank: int | None = None,
    **engine: Any,
) -> Builder:
    lines = [
        ("quantization_formats", Entry(name, f"inferplane.quantization.{target}", "inferplane"))
        for name, target in (("gptq", "gptq:Gptq"), ("online", "online:Online"))
    ]
    if kernel:
        lines.append(("quantization_kernels", Entry("exact", "acme_kernels:Exact", "acme")))
    config = ModelConfig(
        architecture="X",
        model_type="x",
        num_layers=1,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        vocab_size=HIDDEN,
        max_position=8,
        dtype="float32",
        norm_eps=1e-5,
        activation="silu",
        rope=RopeConfig(),
        window_rope=RopeConfig(),
        layer_windows=(None,),
        attention_scale=1.0,
        tie_embeddings=True,
        quantization=quantization,
    )
    binder = Binder(Catalogue(lines), ("acme",), Capabilities(), EngineConfig("m", **engine))
    runtime = HostRuntime()
    place = (rank, 2, Alone(rank)) if rank is not None else (0, 1, None)
    return Builder(config, binder, torch.float32, "cpu", *place, runtime)


def packed(name: str, outputs: int, seed: int, inputs: int = HIDDEN) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    groups = inputs // GROUP

    def codes(rows: int, columns: int) -> Tensor:
        return torch.randint(0, 16, (rows, columns), generator=random, dtype=torch.uint8)

    return {
        f"{name}.qweight": pack(codes(outputs, inputs), 4).t().contiguous(),
        f"{name}.qzeros": pack(codes(groups, outputs), 4),
        f"{name}.scales": torch.rand(groups, outputs, generator=random).half() * 0.1,
        f"{name}.g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def matrix(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    form = Gptq(GPTQ)
    scheme = form.scheme(name)
    assert scheme is not None
    weight = form.canonical(name, tensors)
    check_weight(name, weight, scheme, *weight.values.shape)
    return dequantize(weight, scheme)


def x(rows: int = 3) -> Tensor:
    return torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("kernel", [True, False])
def test_merged_layers_multiply_as_their_dequantised_weights(kernel: bool) -> None:
    build = builder(kernel=kernel)
    layer = build.merged_linear(("q", "k", "v"), HIDDEN, (16, 8, 8), bias=True)
    tensors = packed("q", 16, 1) | packed("k", 8, 2) | packed("v", 8, 3)
    biases = {f"{name}.bias": torch.randn(size) for name, size in (("q", 16), ("k", 8), ("v", 8))}
    build.weights.load(list((tensors | biases).items()))
    dense = torch.cat([matrix(name, tensors) for name in "qkv"])
    expected = x() @ dense.t() + torch.cat(list(biases.values()))
    torch.testing.assert_close(layer(x()), expected, atol=1e-4, rtol=1e-4)
    assert isinstance(layer, QuantizedLinear)
    assert build.binder.fallbacks == ({} if kernel else {"quantized_linear": 1})
    assert {choice.name for choice in build.binder.choices if choice.kind == "quantization"} == {
        "exact" if kernel else "reference"
    }


def test_layers_of_different_kinds_are_joined() -> None:
    build = builder(GPTQ | {"dynamic": {"-:k": {}, "v": {"bits": 8}}})
    layer = build.merged_linear(("q", "k", "v"), HIDDEN, (16, 8, 8))
    assert isinstance(layer, JoinedLinear) and len(layer.layers) == 3
    random = torch.Generator().manual_seed(4)
    eight = {
        "v.qweight": pack(
            torch.randint(0, 256, (8, HIDDEN), generator=random, dtype=torch.uint8), 8
        )
        .t()
        .contiguous(),
        "v.qzeros": pack(torch.full((2, 8), 128, dtype=torch.uint8), 8),
        "v.scales": torch.full((2, 8), 0.01).half(),
        "v.g_idx": torch.arange(HIDDEN, dtype=torch.int32) // GROUP,
    }
    dense = torch.randn(8, HIDDEN, generator=random)
    build.weights.load(list((packed("q", 16, 1) | {"k.weight": dense} | eight).items()))
    got = layer(x())
    torch.testing.assert_close(got[:, 16:24], x() @ dense.t(), atol=1e-4, rtol=1e-4)
    # The kernel refuses eight bits: that part alone falls back, and is counted.
    assert build.binder.fallbacks["quantized_linear"] == 1
    q = matrix("q", packed("q", 16, 1))
    torch.testing.assert_close(got[:, :16], x() @ q.t(), atol=1e-4, rtol=1e-4)


def test_ranks_divide_outputs_and_inputs() -> None:
    tensors = packed("up", HIDDEN, 1) | packed("down", HIDDEN, 2)
    up, down = matrix("up", tensors), matrix("down", tensors)
    halves, sums = [], []
    for rank in (0, 1):
        build = builder(rank=rank)
        first = build.linear("up", HIDDEN, HIDDEN, split="outputs")
        second = build.linear("down", HIDDEN, HIDDEN, split="inputs")
        build.weights.load(list(tensors.items()))
        halves.append(first(x()))
        sums.append(second(x()[:, rank * 32 : rank * 32 + 32]))
    torch.testing.assert_close(torch.cat(halves, 1), x() @ up.t(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sums[0] + sums[1], x() @ down.t(), atol=1e-4, rtol=1e-4)


def test_inputs_divide_over_ranks_by_whole_groups_only() -> None:
    with pytest.raises(ConfigError, match="a rank's 32 inputs are no whole groups of 64"):
        builder(GPTQ | {"group_size": 64}, rank=0).linear("down", HIDDEN, HIDDEN, split="inputs")
    with pytest.raises(ConfigError, match="reordered inputs .desc_act.*tensor_parallel 1"):
        builder(GPTQ | {"desc_act": True}, rank=0).linear("down", HIDDEN, HIDDEN, split="inputs")


def test_a_missing_part_of_a_layer_is_named_with_the_layer() -> None:
    build = builder()
    build.linear("up", HIDDEN, HIDDEN)
    tensors = packed("up", HIDDEN, 1)
    del tensors["up.scales"]
    with pytest.raises(ModelError, match="'up.scales' is missing"):
        build.weights.load(list(tensors.items()))
    with pytest.raises(ModelError, match="'up.qweight' of a quantised layer is missing"):
        again = builder()
        again.linear("up", HIDDEN, HIDDEN)
        again.weights.load([])


def test_a_bias_that_the_model_has_not_is_skipped_if_it_is_zero() -> None:
    for value in (0.0, 0.5):
        build = builder()
        build.linear("up", HIDDEN, HIDDEN)
        tensors = packed("up", HIDDEN, 1) | {"up.bias": torch.full((HIDDEN,), value).half()}
        if value:
            with pytest.raises(ModelError, match="'up.bias' is not part of this architecture"):
                build.weights.load(list(tensors.items()))
        else:
            build.weights.load(list(tensors.items()))


def test_a_layer_of_another_size_than_configured_is_named() -> None:
    build = builder()
    build.linear("up", HIDDEN, 2 * HIDDEN)
    with pytest.raises(ModelError, match=r"'up': .*unpack to \[64, 64\].*\[128, 64\]"):
        build.weights.load(list(packed("up", HIDDEN, 1).items()))


def test_strict_runs_refuse_the_reference_and_say_why() -> None:
    build = builder(GPTQ | {"bits": 8}, fallback="error")
    with pytest.raises(ConfigError, match="no kernel on acme for int8 group 32.*only int4.*unquan"):
        build.linear("up", HIDDEN, HIDDEN)


def test_the_user_may_ask_for_the_reference_or_one_kernel() -> None:
    asked = builder(kernels={"quantization": "reference"})
    asked.linear("up", HIDDEN, HIDDEN)
    assert asked.binder.fallbacks == {"quantized_linear": 1}
    with pytest.raises(ConfigError, match="'exact' was asked for.*only int4"):
        builder(GPTQ | {"bits": 8}, kernels={"quantization": "exact"}).linear("u", HIDDEN, HIDDEN)


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'magic' .known: gptq, online"):
        builder({"quant_method": "magic"})


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_a_tied_output_layer_is_quantised_from_the_embedding(rank: int | None) -> None:
    build = builder({"quant_method": "online", "weights": "int8"}, rank=rank)
    table = build.embedding("embed", HIDDEN, HIDDEN)
    logits = build.logits("lm_head", table)
    weight = torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(1))
    build.weights.load([("embed.weight", weight)])
    rows = slice(None) if rank is None else slice(32 * rank, 32 * rank + 32)
    expected = x() @ weight[rows].t()
    assert logits(x()).dtype == torch.float32
    torch.testing.assert_close(logits(x()), expected, atol=0.2, rtol=0.02)
    assert torch.equal(table(torch.tensor([3], dtype=torch.int32))[0], weight[3])


def test_made_up_weights_fill_quantised_layers() -> None:
    results = []
    for seed in (1, 1, 2):
        build = builder(GPTQ | {"desc_act": True})
        layer = build.merged_linear(("q", "k"), HIDDEN, (16, 8))
        table: WeightTable = build.weights
        table.load(table.dummies(seed))
        results.append(layer(x()))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert 0 < float(results[0].abs().mean()) < 10
