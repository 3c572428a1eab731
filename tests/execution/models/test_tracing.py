"""A step of any model reads nothing on the host and has shapes known beforehand (R7)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

SYNCS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::_unique2",
}
TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CASES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**TINY),
    "gemma3": Gemma3TextConfig(**TINY, head_dim=8, sliding_window=4, final_logit_softcapping=5.0),
    "qwen3-moe": Qwen3MoeConfig(**TINY, num_experts=4, num_experts_per_tok=2, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


class HostReads(TorchDispatchMode):
    """Collects every call that would wait for a device or yield a shape only it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        by_mask = name == "aten::index.Tensor" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in SYNCS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class PlainAttention:
    """Stands for a backend: of the right shape, and nothing else."""

    def attend(self, layer: str, q: Tensor, k: Tensor | None, v: Tensor | None) -> Tensor:
        return q * 0.5


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, tmp_path: Path, load: Callable[..., Any]) -> Any:
    transformers.logging.set_verbosity_error()
    AutoModelForCausalLM.from_config(CASES[request.param]).save_pretrained(tmp_path)
    return load(tmp_path).model


def step(model: Any) -> Tensor:
    ids = torch.zeros(7, dtype=torch.int32)
    hidden = model.forward(ids, torch.zeros(7, dtype=torch.int32), PlainAttention())
    out: Tensor = model.logits(hidden)
    return out


def test_a_step_never_reads_on_the_host(model: Any) -> None:
    with HostReads() as reads, torch.inference_mode():
        step(model)
    assert reads.found == []


def test_a_step_runs_on_tensors_without_content(model: Any) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        out = step(model)
    assert out.shape == (7, 64) and out.dtype == torch.float32
