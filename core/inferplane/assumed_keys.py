"""Values that Hugging Face's configuration classes assume for keys that config.json leaves out."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ASSUMED", "ASSUMED_WITHIN"]

ASSUMED: Mapping[str, Mapping[str, object]] = {
    "gemma3_text": {
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10_000.0,
        "rope_theta": 1_000_000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
        "vocab_size": 262_208,
    },
    "gpt2": {"hidden_act": "gelu_new", "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_experts_per_tok": 2, "num_key_value_heads": 8, "num_local_experts": 8},
    "qwen2": {"max_window_layers": 28, "sliding_window": 4096, "use_sliding_window": False},
    "qwen3": {
        "head_dim": 128,
        "max_window_layers": 28,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
    "qwen3_moe": {"norm_topk_prob": False, "use_sliding_window": False},
    "whisper": {"layer_norm_eps": 1e-5, "activation_function": "gelu", "tie_word_embeddings": True},
}
"""By model_type."""


ASSUMED_WITHIN: Mapping[str, Mapping[str, object]] = {
    "cohere2": {"sliding_window": 4096, "tie_word_embeddings": True},
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32_000,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32_000,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "max_position_embeddings": 32_768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "vocab_size": 151_936,
    },
}
"""The same where the language model is a part of config.json: models that see pictures say no more
of it than what differs."""
