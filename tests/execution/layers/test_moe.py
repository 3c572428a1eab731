"""Routed experts: parts of ranks add up, quantised experts are dequantised and counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.interfaces import Capabilities, Communicator, EngineConfig
from inferplane.layers.build import Builder
from inferplane.layers.moe import MoeMlp
from inferplane.layers.stacked import stacked_linear
from inferplane.model_config import ModelConfig, MoeConfig, RopeConfig
from inferplane.ops.bind import Binder
from inferplane.registry import Catalogue, Entry

SIZE, INNER, EXPERTS = 32, 16, 3
MOE = MoeConfig(EXPERTS, 2, INNER, renormalize=True)
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}


class Alone(Communicator):
    def __init__(self, rank: int) -> None:
        self.rank, self.world_size = rank, 2

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        return x


def builder(
    quantization: Mapping[str, object] | None = None, rank: int | None = None, **engine: Any
) -> Builder:
    formats = [
        (
            "quantization_formats",
            Entry(name, f"inferplane.quantization.{name}:{kind}", "inferplane"),
        )
        for name, kind in (("fp8", "Fp8"), ("online", "Online"))
    ]
    config = ModelConfig(
        architecture="X",
        model_type="x",
        num_layers=1,
        hidden_size=SIZE,
        intermediate_size=INNER,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
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
        quantization=quantization or {},
    )
    binder = Binder(Catalogue(formats), ("acme",), Capabilities(), EngineConfig("m", **engine))
    place = (rank, 2, Alone(rank)) if rank is not None else (0, 1, None)
    return Builder(config, binder, torch.float32, "cpu", *place)


def weights() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"gate_proj": (INNER, SIZE), "up_proj": (INNER, SIZE), "down_proj": (SIZE, INNER)}
    found = {"mlp.gate.weight": torch.randn(EXPERTS, SIZE, generator=random)}
    for expert in range(EXPERTS):
        for name, shape in shapes.items():
            matrix = torch.randn(shape, generator=random) * 0.3
            found[f"mlp.experts.{expert}.{name}.weight"] = matrix
    return found


def made(build: Builder, tensors: Mapping[str, Tensor]) -> MoeMlp:
    layer = MoeMlp(build, "mlp", MOE)
    build.weights.load(list(tensors.items()))
    return layer


def x() -> Tensor:
    return torch.randn(6, SIZE, generator=torch.Generator().manual_seed(4))


def test_partial_sums_of_ranks_add_up() -> None:
    whole = made(builder(), weights())(x())
    parts = [made(builder(rank=rank), weights())(x()) for rank in (0, 1)]
    torch.testing.assert_close(parts[0] + parts[1], whole, atol=1e-5, rtol=1e-4)


def test_quantised_experts_are_dequantised_and_counted() -> None:
    dense, stored = weights(), {"mlp.gate.weight": weights()["mlp.gate.weight"]}
    for name, matrix in list(dense.items())[1:]:
        scale = torch.rand(matrix.shape[0] // 16, matrix.shape[1] // 16) + 0.01
        wide = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
        stored[name] = (matrix / wide).to(torch.float8_e4m3fn)
        stored[name.replace(".weight", ".weight_scale_inv")] = scale
        dense[name] = stored[name].float() * wide
    expected = made(builder(), dense)(x())
    build = builder(FP8)
    torch.testing.assert_close(made(build, stored)(x()), expected, atol=1e-5, rtol=1e-4)
    assert build.binder.fallbacks["quantized_moe"] == 3 * EXPERTS
    # A rank's eight inputs of the down projection are half a group.
    parts = [made(builder(FP8, rank), stored)(x()) for rank in (0, 1)]
    torch.testing.assert_close(parts[0] + parts[1], expected, atol=1e-5, rtol=1e-4)


def test_strict_runs_refuse_quantised_experts() -> None:
    with pytest.raises(ConfigError, match="fallback=error"):
        MoeMlp(builder(FP8, fallback="error"), "mlp", MOE)


def test_experts_stay_as_they_are_when_others_are_quantised_while_loading() -> None:
    build = builder({"quant_method": "online", "weights": "int8"})
    got = made(build, weights())(x())
    torch.testing.assert_close(got, made(builder(), weights())(x()))


@pytest.mark.parametrize("transposed", [False, True])
def test_ranks_take_their_rows_of_each_stacked_part(transposed: bool) -> None:
    random = torch.Generator().manual_seed(0)
    whole = torch.randn(24, SIZE, generator=random)
    stored = whole.t().contiguous() if transposed else whole
    bias = torch.randn(24, generator=random)
    joined = []
    for rank in (0, 1):
        build = builder(rank=rank)
        parts = [range(rank * 8, rank * 8 + 8), range(rank * 4, rank * 4 + 4)]
        layer = stacked_linear(build, "qk", SIZE, (16, 8), parts, bias=True, transposed=transposed)
        build.weights.load([("qk.weight", stored), ("qk.bias", bias)])
        joined.append(layer(x()))
    expected = x() @ whole.t() + bias
    got = torch.cat([joined[0][:, :8], joined[1][:, :8], joined[0][:, 8:], joined[1][:, 8:]], 1)
    torch.testing.assert_close(got, expected)
