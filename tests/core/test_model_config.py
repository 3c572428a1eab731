"""config.json becomes typed numbers, whichever generation of Hugging Face wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.errors import ModelError
from inferplane.model_config import ModelConfig, read_model_config
from inferplane.models.pictures import image_token_id, takes_pictures

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}


def read(tmp_path: Path, asked: str = "auto", generation: Any = None, **keys: Any) -> ModelConfig:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | keys))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    return read_model_config(open_checkpoint(tmp_path), asked)


def test_missing_keys_take_what_the_class_assumes(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.norm_eps, config.activation, config.rope.theta) == (1e-6, "silu", 1e4)
    assert config.layer_windows == (None,) * 4
    assert config.attention_scale == 0.25 and config.embedding_scale == 1.0


def test_the_shape_repeats_the_numbers_that_plugins_read(tmp_path: Path) -> None:
    shape = read(tmp_path, "bfloat16", quantization_config={"quant_method": "awq"}).shape()
    assert (shape.architecture, shape.num_layers, shape.dtype) == (
        "LlamaForCausalLM",
        4,
        "bfloat16",
    )
    assert (shape.head_dim, shape.max_position, shape.quantization) == (16, 256, "awq")


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
    ],
)
def test_both_generations_of_rope_keys_are_read(keys: dict[str, Any], tmp_path: Path) -> None:
    rope = read(tmp_path, **keys).rope
    assert (rope.theta, rope.kind, rope.factor) == (5e5, "linear", 2.0)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
            }
        },
    ],
)
def test_windowed_layers_may_turn_at_their_own_base(keys: dict[str, Any], tmp_path: Path) -> None:
    config = read(tmp_path, **keys)
    assert (config.rope.theta, config.window_rope.theta) == (1e6, 1e4)


def test_yarn_without_factor_takes_the_ratio_of_lengths(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "original_max_position_embeddings": 64}
    assert read(tmp_path, rope_scaling=scaling).rope.factor == 4.0


def test_gemma_alternates_windows_and_scales_its_embeddings(tmp_path: Path) -> None:
    config = read(
        tmp_path, model_type="gemma3_text", sliding_window=8, sliding_window_pattern=3, head_dim=32
    )
    assert config.layer_windows == (8, 8, None, 8)
    assert config.embedding_scale == 8.0 and config.tie_embeddings
    assert config.attention_scale == pytest.approx(1 / math.sqrt(256))


def test_a_window_counts_only_where_the_configuration_uses_it(tmp_path: Path) -> None:
    window = {"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 2}
    assert read(tmp_path, **window).layer_windows == (None,) * 4
    used = read(tmp_path, **window, use_sliding_window=True)
    assert used.layer_windows == (None, None, 8, 8)


def test_an_explicit_null_beats_what_the_class_assumes(tmp_path: Path) -> None:
    assert read(tmp_path, model_type="mistral", num_key_value_heads=2).layer_windows[0] == 4096
    without = read(tmp_path, model_type="mistral", num_key_value_heads=2, sliding_window=None)
    assert without.layer_windows == (None,) * 4


def test_end_tokens_of_both_files_are_joined_generation_first(tmp_path: Path) -> None:
    config = read(tmp_path, generation={"eos_token_id": [7, 9]}, eos_token_id=9, bos_token_id=3)
    assert config.eos_ids == (7, 9) and config.bos_id == 3


def test_the_language_part_of_a_multimodal_configuration_is_used(tmp_path: Path) -> None:
    config = read(tmp_path, text_config={"hidden_size": 32, "num_hidden_layers": 2})
    assert (config.hidden_size, config.num_layers, config.vocab_size) == (32, 2, 100)


def test_a_language_part_that_says_little_is_what_its_class_assumes(tmp_path: Path) -> None:
    """As LLaVA 1.5 was published."""
    part = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}
    whole = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": 32000,
        "text_config": part,
        "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24},
    }
    (tmp_path / "config.json").write_text(json.dumps(whole))
    config = read_model_config(open_checkpoint(tmp_path))
    assert (config.hidden_size, config.num_layers, config.num_heads) == (4096, 32, 32)
    assert (config.vocab_size, config.max_position, config.model_type) == (32064, 4096, "llama")
    assert config.whole["model_type"] == "llava"
    assert takes_pictures(config) and image_token_id(config) == 32000


def test_an_image_token_that_is_no_token_is_refused(tmp_path: Path) -> None:
    config = read(tmp_path, image_token_id=100)
    assert not takes_pictures(config)
    with pytest.raises(ModelError, match="image_token_id below vocab_size 100"):
        image_token_id(config)


@pytest.mark.parametrize(
    ("keys", "asked", "expected"),
    [
        ({"dtype": "bfloat16"}, "auto", "bfloat16"),
        ({"torch_dtype": "float16"}, "auto", "float16"),
        ({}, "auto", "float32"),
        ({"dtype": "bfloat16"}, "float32", "float32"),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_the_checkpoints(
    keys: dict[str, Any], asked: str, expected: str, tmp_path: Path
) -> None:
    assert read(tmp_path, asked, **keys).dtype == expected


def test_an_unknown_dtype_lists_the_accepted_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'int7' is unknown .*auto, float32, float16, bfloat16"):
        read(tmp_path, "int7")


def test_experts_are_read_with_their_dense_layers(tmp_path: Path) -> None:
    moe = read(
        tmp_path,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        norm_topk_prob=False,
        mlp_only_layers=[0],
        decoder_sparse_step=2,
    ).moe
    assert moe is not None
    assert (moe.num_experts, moe.num_active, moe.intermediate_size) == (8, 2, 24)
    assert not moe.renormalize and moe.dense_layers == {0, 2}
