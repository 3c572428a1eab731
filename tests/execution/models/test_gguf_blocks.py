"""GGUF weights stay in their blocks where a kernel wants them, and mean the same."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from inferplane.interfaces import (
    CanonicalWeight,
    Capabilities,
    LinearSite,
    QuantKernel,
    QuantScheme,
    Reasons,
)
from inferplane.layers.embedding import PackedLogits
from inferplane.layers.quantized import JoinedLinear, QuantizedLinear
from inferplane.quantization.reference import dequantize
from inferplane.registry import Entry

SIZE, LAYERS, VOCAB = 64, 2, 96


class Blocks(QuantKernel):
    """Multiplies by what the blocks mean, and tells which schemes it saw."""

    seen: list[QuantScheme]

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: Any) -> None:
        self.scheme = scheme

    @classmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        return ()

    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        self.seen.append(self.scheme)
        return {"w": dequantize(weight, self.scheme)}

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        return torch.nn.functional.linear(x, packed["w"], bias)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Blocks]:
    module = types.ModuleType("acme_kernels")
    module.__dict__["Blocks"] = type("Blocks", (Blocks,), {"seen": []})
    monkeypatch.setitem(sys.modules, "acme_kernels", module)
    found: type[Blocks] = module.__dict__["Blocks"]
    return found


LINES = [("quantization_kernels", Entry("blocks", "acme_kernels:Blocks", "acme"))]


def write(path: Path, kinds: Mapping[str, Type], experts: int = 0) -> None:
    """A tied Llama of random blocks; `kinds`: GGUF layer -> type, Q4_1 where it is not named.

    With `experts` a Mixtral, which stacks them.
    """
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * SIZE)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)

    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)

    def put(name: str, *shape: int) -> None:
        kind = kinds.get(name.split(".")[-1], Type.Q4_1)
        numbers = random.standard_normal(shape, dtype=np.float32) * 0.2
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(numbers, kind), raw_dtype=kind)

    put("token_embd", VOCAB, SIZE)
    writer.add_tensor("output_norm.weight", np.ones(SIZE, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(SIZE, np.float32))
        shapes = {
            "attn_q": (SIZE, SIZE),
            "attn_k": (SIZE // 2, SIZE),
            "attn_v": (SIZE // 2, SIZE),
            "attn_output": (SIZE, SIZE),
            "ffn_gate": (2 * SIZE, SIZE),
            "ffn_up": (2 * SIZE, SIZE),
            "ffn_down": (SIZE, 2 * SIZE),
        }
        if experts:
            router = random.standard_normal((experts, SIZE), dtype=np.float32)
            writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router)
        for name, shape in shapes.items():
            if experts and name.startswith("ffn_"):
                put(f"blk.{layer}.{name}_exps", experts, *shape)
            else:
                put(f"blk.{layer}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


IDS = [5, 90, 33, 7, 61, 2, 2, 48]


@pytest.mark.parametrize(
    "kinds",
    [{}, {"token_embd": Type.Q8_0, "attn_v": Type.Q5_0, "ffn_down": Type.Q8_0}],
)
def test_blocks_give_the_logits_of_the_dequantised_model(
    kinds: dict[str, Type], tmp_path: Path, load: Callable[..., Any], kernel: type[Blocks]
) -> None:
    file = tmp_path / "model.gguf"
    write(file, kinds)
    dense, blocks = load(file), load(file, lines=LINES)
    torch.testing.assert_close(blocks.logits(IDS), dense.logits(IDS), atol=1e-3, rtol=1e-4)
    assert dense.binder.fallbacks.get("quantized_linear") is None
    assert kernel.seen and not isinstance(dense.model._logits, PackedLogits)
    assert isinstance(blocks.model._logits, PackedLogits)
    qkv = blocks.model._layers[0].attention.qkv
    assert isinstance(qkv, JoinedLinear if kinds else QuantizedLinear)


@pytest.mark.parametrize("down", [Type.Q4_1, Type.Q8_0])
def test_stacked_experts_stay_in_their_blocks(
    down: Type, tmp_path: Path, load: Callable[..., Any], kernel: type[Blocks]
) -> None:
    file = tmp_path / "model.gguf"
    write(file, {"ffn_down_exps": down}, experts=3)
    dense, blocks = load(file), load(file, lines=LINES)
    assert blocks.model._layers[0].mlp._packed is not None
    assert dense.model._layers[0].mlp._packed is None
    torch.testing.assert_close(blocks.logits(IDS), dense.logits(IDS), atol=1e-3, rtol=1e-4)


def test_quantization_none_dequantises_although_a_kernel_is_there(
    tmp_path: Path, load: Callable[..., Any], kernel: type[Blocks]
) -> None:
    file = tmp_path / "model.gguf"
    write(file, {})
    plain = load(file, lines=LINES, quantization="none")
    assert kernel.seen == []
    torch.testing.assert_close(plain.logits(IDS), load(file).logits(IDS))


def test_blocks_can_be_quantised_otherwise_while_loading(
    tmp_path: Path, load: Callable[..., Any], kernel: type[Blocks]
) -> None:
    file = tmp_path / "model.gguf"
    write(file, {})
    load(file, lines=LINES, quantization="int8")
    assert {scheme.weight for scheme in kernel.seen} == {"int8"}
    assert {scheme.group for scheme in kernel.seen} == {0}


def test_types_of_a_layer_that_no_kernel_can_read_are_dequantised(
    tmp_path: Path, load: Callable[..., Any], kernel: type[Blocks]
) -> None:
    file = tmp_path / "model.gguf"
    write(file, {"attn_k": Type.BF16})
    mixed = load(file, lines=LINES)
    torch.testing.assert_close(mixed.logits(IDS), load(file).logits(IDS), atol=1e-3, rtol=1e-4)
