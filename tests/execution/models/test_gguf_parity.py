"""A model written as GGUF, as llama.cpp's converter writes it, computes what its original does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[gguf.MODEL_ARCH, PreTrainedConfig]] = {
    "llama": (gguf.MODEL_ARCH.LLAMA, LlamaConfig(**TINY)),
    "llama3": (gguf.MODEL_ARCH.LLAMA, LlamaConfig(**TINY, rope_parameters=LLAMA3)),
    "llama-tied": (gguf.MODEL_ARCH.LLAMA, LlamaConfig(**TINY, tie_word_embeddings=True)),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, Qwen2Config(**TINY)),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, Qwen3Config(**TINY, head_dim=32)),
    "gemma3": (
        gguf.MODEL_ARCH.GEMMA3,
        Gemma3TextConfig(**TINY, head_dim=32, sliding_window=6, query_pre_attn_scalar=32),
    ),
    "mixtral": (
        gguf.MODEL_ARCH.LLAMA,
        MixtralConfig(**TINY, num_local_experts=3, num_experts_per_tok=2),
    ),
    "qwen3moe": (
        gguf.MODEL_ARCH.QWEN3MOE,
        Qwen3MoeConfig(
            **TINY,
            head_dim=16,
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            norm_topk_prob=True,
        ),
    ),
}


def neighbours(rows: Tensor, num_heads: int) -> Tensor:
    """The converter's reordering of query and key rows (convert_hf_to_gguf.py, `permute`)."""
    split = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def converted(name: str, tensor: Tensor, arch: str, config: Any) -> Tensor:
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return neighbours(tensor, heads)
    if arch == "gemma3" and name.endswith("norm.weight"):
        return tensor + 1
    return tensor


def stacked_experts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The converter's names for experts: one tensor for all of a layer."""
    found: dict[str, Tensor] = {}
    stacks: dict[str, list[Tensor]] = {}
    for key in sorted(tensors):
        match = re.fullmatch(r"(.*\.experts)\.\d+\.(.*)", key)
        if match:
            stacks.setdefault(f"{match[1]}.{match[2]}", []).append(tensors[key])
        else:
            found[key] = tensors[key]
    return found | {key: torch.stack(parts) for key, parts in stacks.items()}


def write(
    path: Path, model: Any, arch: gguf.MODEL_ARCH, config: Any, stored: dict[str, Tensor]
) -> None:
    name = gguf.MODEL_ARCH_NAMES[arch]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(getattr(config, "head_dim", None) or 16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if name == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(model).numpy())
    if hasattr(config, "num_experts_per_tok"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    for key, tensor in stacked_experts(stored).items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert target is not None, key
        writer.add_tensor(target, converted(key, tensor, name, config).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def divisors(model: Any) -> Tensor:
    """By how much Llama 3's scaling slows each frequency: what the converter stores."""
    rotary = model.model.rotary_emb
    plain = 500.0 ** -(torch.arange(0, 16, 2, dtype=torch.float32) / 16)
    return (plain / rotary.inv_freq).float()


@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_gives_the_logits_of_its_original(
    case: str, tmp_path: Path, load: Callable[..., Any]
) -> None:
    transformers.logging.set_verbosity_error()
    arch, config = CASES[case]
    torch.manual_seed(2)
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.15)
    theirs.save_pretrained(tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    file = tmp_path / "model.gguf"
    write(file, theirs, arch, config, stored)
    ids = torch.randint(3, 99, (30,)).tolist()
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(load(file).logits(ids), expected, atol=2e-4, rtol=1e-4)
