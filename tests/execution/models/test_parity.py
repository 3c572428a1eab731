"""Greedy tokens and logits equal those of transformers, on tiny random models in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCAB = 199
TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

CASES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**TINY),
    "llama-tied-biased": LlamaConfig(
        **TINY, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "llama-scaled-rope": LlamaConfig(
        **TINY,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "llama-linear-rope": LlamaConfig(
        **TINY, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
    ),
    "llama-yarn-rope": LlamaConfig(
        **TINY,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral-window": MistralConfig(**TINY, sliding_window=7),
    "mistral-full": MistralConfig(**TINY, sliding_window=None),
    "qwen2": Qwen2Config(**TINY),
    "qwen2-mixed-windows": Qwen2Config(
        **TINY, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**TINY, head_dim=24),
    "gemma3": Gemma3TextConfig(
        **TINY,
        head_dim=16,
        sliding_window=6,
        sliding_window_pattern=3,
        query_pre_attn_scalar=24,
        rope_theta=3e4,
    ),
    "gemma3-capped": Gemma3TextConfig(
        **TINY, head_dim=16, sliding_window=6, final_logit_softcapping=3.0
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **TINY,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        mlp_only_layers=[1],
        head_dim=16,
    ),
    "qwen3-moe-unnormalised": Qwen3MoeConfig(
        **TINY, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=24, head_dim=16
    ),
    "mixtral": MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2, sliding_window=9),
    "phi3": Phi3Config(**TINY),
    "phi3-longrope": Phi3Config(
        **TINY | {"max_position_embeddings": 1024},
        original_max_position_embeddings=512,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.5, 2.0],
            "long_factor": [4.0, 4.0, 4.0],
        },
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCAB,
        n_embd=48,
        n_layer=3,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, load: Callable[..., Any]) -> Any:
    """(their model, ours) with the same random weights."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(11)
    theirs = AutoModelForCausalLM.from_config(CASES[request.param], attn_implementation="eager")
    for name, parameter in theirs.named_parameters():
        spread = 0.3 if "norm" in name else 0.15
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, spread)
    theirs.eval()
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


@pytest.mark.parametrize("pair", CASES, indirect=True)
def test_logits_agree_at_every_position(pair: Any) -> None:
    theirs, ours = pair
    ids = torch.randint(3, VOCAB, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(ours.logits(ids), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("pair", CASES, indirect=True)
def test_greedy_tokens_are_identical_beyond_every_window(pair: Any) -> None:
    theirs, ours = pair
    prompt = [3, 14, 15, 92, 65, 35, 89, 79]
    with torch.inference_mode():
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None
        )[0, len(prompt) :].tolist()
    assert ours.greedy(prompt, 24) == expected


def test_the_text_part_of_a_multimodal_model_is_served(
    tmp_path: Path, load: Callable[..., Any]
) -> None:
    transformers.logging.set_verbosity_error()
    text = CASES["gemma3"].to_dict() | {"head_dim": 16, "sliding_window_pattern": 3}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(3)
    theirs = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    ).eval()
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(3, VOCAB, (20,)).tolist()
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(load(tmp_path).logits(ids), expected, atol=2e-4, rtol=1e-4)
