"""Each tensor of a checkpoint is placed exactly once, or the error names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from inferplane.checkpoint import open_checkpoint
from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import Capabilities, Communicator, EngineConfig
from inferplane.layers.build import Builder
from inferplane.loading import dummy_weights, iterate_weights
from inferplane.model_config import read_model_config
from inferplane.models.llama import Llama
from inferplane.ops.bind import Binder
from inferplane.registry import Catalogue

Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_bias=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


class SumOfNothing(Communicator):
    """A rank alone: what it holds is the sum, and the rest is absent."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        return x


def build(folder: Path, rank: int = 0, world_size: int = 1, dtype: str = "float32") -> Llama:
    config = read_model_config(open_checkpoint(folder), dtype)
    binder = Binder(Catalogue(), (), Capabilities(), EngineConfig(str(folder), max_model_len=64))
    communicator = SumOfNothing(rank, world_size) if world_size > 1 else None
    return Llama(
        config,
        Builder(config, binder, getattr(torch, dtype), "cpu", rank, world_size, communicator),
    )


def load(folder: Path, **changes: Any) -> Llama:
    model = build(folder, **changes)
    model.load(iterate_weights(open_checkpoint(folder)))
    return model


def edited(folder: Path, edit: Any) -> Path:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file)
    return file


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda t: t.pop(Q), rf"tensor '{Q}' \[32, 32\] is missing$"),
        (lambda t: [t.pop(n) for n in list(t) if "mlp" in n], r"is missing \(and 5 more\)"),
        (lambda t: t.update(extra=torch.ones(2)), "tensor 'extra' is not part of"),
        (lambda t: t.update({Q: t[Q][:, :8].clone()}), rf"'{Q}' has shape \[32, 8\].*\[32, 32\]"),
        (lambda t: t.update({Q: t[Q].t()[None].contiguous()}), r"has shape \[1, 32, 32\]"),
        (lambda t: t.update({Q: t[Q].to(torch.int8)}), f"'{Q}' has dtype torch.int8, needs"),
        (lambda t: t.update({Q: t[Q].to(torch.float8_e4m3fn)}), "dtype torch.float8_e4m3fn"),
        (lambda t: t[Q].index_fill_(0, torch.tensor([3]), torch.nan), f"'{Q}' .*not finite"),
        (lambda t: t[NORM].fill_(-torch.inf), f"'{NORM}' holds values that are not finite"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_its_file(
    folder: Path, edit: Any, fault: str
) -> None:
    file = edited(folder, edit)
    with pytest.raises(ModelError, match=fault) as caught:
        load(folder)
    assert str(caught.value).startswith((f"{file}: ", f"{folder}: "))


def test_a_tensor_that_comes_twice_is_refused(folder: Path) -> None:
    def twice() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in iterate_weights(open_checkpoint(folder)):
            yield name, tensor
            yield name, tensor

    with pytest.raises(ModelError, match="occurs twice"):
        build(folder).load(twice())


def test_tensors_may_come_in_any_order(folder: Path) -> None:
    held = list(iterate_weights(open_checkpoint(folder)))
    forward, backward = build(folder), build(folder)
    forward.load(held)
    backward.load(reversed(held))
    for one, other in zip(parameters(forward), parameters(backward), strict=True):
        assert torch.equal(one, other)


def test_tensors_that_nobody_reads_are_skipped(folder: Path) -> None:
    unused = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edited(folder, lambda t: t.update({unused: torch.ones(4)}))
    load(folder)


def test_building_takes_no_memory_for_weights(folder: Path) -> None:
    assert all(tensor.is_meta for tensor in parameters(build(folder)))
    assert not any(tensor.is_meta for tensor in parameters(load(folder)))


def test_weights_take_the_dtype_of_the_run_and_norms_stay_float32(folder: Path) -> None:
    model = load(folder, dtype="bfloat16")
    assert {tensor.dtype for tensor in parameters(model)} == {torch.bfloat16, torch.float32}
    assert model.norm.weight.dtype == torch.float32


def test_ranks_hold_parts_that_make_up_the_whole(folder: Path) -> None:
    whole = load(folder)
    ranks = [load(folder, rank=rank, world_size=2) for rank in (0, 1)]
    mlps = [rank._layers[0].mlp for rank in ranks]  # type: ignore[attr-defined]
    full = whole._layers[0].mlp  # type: ignore[attr-defined]
    gates = [mlp.gate_up.weight[:32] for mlp in mlps] + [mlp.gate_up.weight[32:] for mlp in mlps]
    assert torch.equal(torch.cat(gates), full.gate_up.weight)
    downs = [mlp.down.inner.weight for mlp in mlps]
    assert torch.equal(torch.cat(downs, 1), full.down.weight)
    assert [rank.kv_layers()[0].num_kv_heads for rank in ranks] == [1, 1]
    vocabulary = torch.cat([rank._logits.weight for rank in ranks])
    assert torch.equal(vocabulary, whole._logits.weight)


def test_partial_sums_of_ranks_add_up_to_the_whole_layer(folder: Path) -> None:
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    whole = load(folder)._layers[0].mlp(x)  # type: ignore[attr-defined]
    parts = [load(folder, rank=r, world_size=2)._layers[0].mlp(x) for r in (0, 1)]  # type: ignore[attr-defined]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_a_kv_head_is_repeated_where_ranks_outnumber_them(folder: Path) -> None:
    for rank, head in enumerate((0, 0, 1, 1)):
        model = load(folder, rank=rank, world_size=4)
        k = model._layers[0].attention.qkv.weight[8:16]  # type: ignore[attr-defined]
        full = load(folder)._layers[0].attention.qkv.weight[32:48]  # type: ignore[attr-defined]
        assert torch.equal(k, full[head * 8 : head * 8 + 8])


def test_heads_that_do_not_divide_over_the_ranks_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="number of attention heads is 4.*over 3 ranks"):
        build(folder, world_size=3)


def test_dummy_weights_repeat_with_their_seed_and_fill_every_slot(folder: Path) -> None:
    models = [build(folder) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.load(dummy_weights(model, seed))
    first, same, other = (torch.cat([t.flatten() for t in parameters(m)]) for m in models)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(models[0].norm.weight, torch.ones(32))


def parameters(model: Llama) -> list[Tensor]:
    found = [model.embedding.weight, model.norm.weight]
    for layer in model._layers:
        attention, mlp = layer.attention, layer.mlp  # type: ignore[attr-defined]
        found += [attention.qkv.weight, attention.qkv.bias, mlp.gate_up.weight]
        found += [getattr(part, "inner", part).weight for part in (attention.output, mlp.down)]
        found += [layer.norm.weight, layer.mlp_norm.weight]  # type: ignore[attr-defined]
    return found
