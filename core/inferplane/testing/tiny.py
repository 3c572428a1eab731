"""Write tiny random models to a folder: config.json, safetensors, a real tokenizer; no torch.

The folders have the Hugging Face layout, so a reference library reads them too. Weights are scaled
so that logits spread over several units: greedy choices are clear and depend on the whole context.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from inferplane.interfaces import Array
from inferplane.testing.tiny_tokenizer import EOS, VOCAB_SIZE, write_tokenizer

__all__ = ["TINY_MODELS", "write_tiny_model"]

_DTYPES: Mapping[str, Callable[[Array], Array]] = {
    "float32": lambda x: x.astype("<f4"),
    "float16": lambda x: x.astype("<f2"),
    "bfloat16": lambda x: ((x.astype("<f4").view("<u4") + 0x8000) >> 16).astype("<u2"),
}

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

_COMMON: Mapping[str, object] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
}

TINY_MODELS: Mapping[str, Mapping[str, object]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False},
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 24,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 32,
        "use_sliding_window": False,
    },
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 24,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "query_pre_attn_scalar": 16,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "tie_word_embeddings": True,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "sliding_window": None,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "use_sliding_window": False,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
}
"""Kind -> what its config.json says beyond the common part."""


def write_tiny_model(
    folder: Path,
    kind: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "float32",
    shards: int = 1,
    overrides: Mapping[str, object] | None = None,
) -> Path:
    """Write a random model of one of TINY_MODELS into `folder` and return it.

    `dtype`: float32, float16 or bfloat16 on disk. `shards` > 1 divides the tensors over as many
    files with an index. `overrides` replaces keys of config.json; sizes follow it. Equal arguments
    write equal bytes.
    """
    config = {**_COMMON, **TINY_MODELS[kind], "dtype": dtype, **(overrides or {})}
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"bos_token_id": EOS, "eos_token_id": EOS})
    tensors = _weights(config, np.random.default_rng(seed))
    _write_tensors(folder, tensors, dtype, shards)
    return folder


def _weights(config: Mapping[str, object], rng: np.random.Generator) -> dict[str, Array]:
    """Every tensor by its Hugging Face name, f32."""
    size = {key: value for key, value in config.items() if isinstance(value, int)}
    hidden, head_dim, kind = size["hidden_size"], size["head_dim"], config["model_type"]
    q_width, kv_width = (
        size[key] * head_dim for key in ("num_attention_heads", "num_key_value_heads")
    )

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Array:
        return rng.normal(0.0, gain / np.sqrt(columns), (rows, columns)).astype(np.float32)

    def norm(width: int) -> Array:
        centre = 0.0 if kind == "gemma3_text" else 1.0  # that family stores the weight minus one
        return (centre + rng.normal(0.0, 0.1, width)).astype(np.float32)

    gain = 0.3 if kind == "gemma3_text" else 2.5  # that family scales its embedding up
    out = {"model.embed_tokens.weight": matrix(size["vocab_size"], hidden, gain)}
    for layer in range(size["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in (("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)):
            out[f"{at}self_attn.{name}.weight"] = matrix(rows, hidden, 1.5)
            if kind == "qwen2" or config["attention_bias"]:
                out[f"{at}self_attn.{name}.bias"] = rng.normal(0, 0.2, rows).astype(np.float32)
        out[f"{at}self_attn.o_proj.weight"] = matrix(hidden, q_width, 1.5)
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            out[f"{at}self_attn.q_norm.weight"] = norm(head_dim)
            out[f"{at}self_attn.k_norm.weight"] = norm(head_dim)
        for name in _norms(str(kind)):
            out[f"{at}{name}.weight"] = norm(hidden)
        out |= _feed_forward(at, str(kind), size, matrix)
    out["model.norm.weight"] = norm(hidden) + np.float32(6.0 if kind == "gemma3_text" else 0.0)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = matrix(size["vocab_size"], hidden, 2.5)
    return out


def _norms(kind: str) -> tuple[str, ...]:
    both = ("input_layernorm", "post_attention_layernorm")
    if kind == "gemma3_text":
        return (*both, "pre_feedforward_layernorm", "post_feedforward_layernorm")
    return both


def _feed_forward(
    at: str, kind: str, size: Mapping[str, int], matrix: Callable[[int, int], Array]
) -> dict[str, Array]:
    hidden, names = size["hidden_size"], ("gate_proj", "up_proj", "down_proj")
    if kind == "mixtral":
        gate, experts = f"{at}block_sparse_moe.gate", f"{at}block_sparse_moe.experts"
        inner, count, names = (
            size["intermediate_size"],
            size["num_local_experts"],
            ("w1", "w3", "w2"),
        )
    elif kind == "qwen3_moe":
        gate, experts = f"{at}mlp.gate", f"{at}mlp.experts"
        inner, count = size["moe_intermediate_size"], size["num_experts"]
    else:
        return _gated(f"{at}mlp", names, hidden, size["intermediate_size"], matrix)
    out = {f"{gate}.weight": matrix(count, hidden)}
    for expert in range(count):
        out |= _gated(f"{experts}.{expert}", names, hidden, inner, matrix)
    return out


def _gated(
    at: str,
    names: tuple[str, ...],
    hidden: int,
    inner: int,
    matrix: Callable[[int, int], Array],
) -> dict[str, Array]:
    gate, up, down = names
    return {
        f"{at}.{gate}.weight": matrix(inner, hidden),
        f"{at}.{up}.weight": matrix(inner, hidden),
        f"{at}.{down}.weight": matrix(hidden, inner),
    }


def _write_tensors(folder: Path, tensors: Mapping[str, Array], dtype: str, shards: int) -> None:
    names, index = sorted(tensors), dict[str, str]()
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        if shards == 1:
            file = "model.safetensors"
        chosen = {name: tensors[name] for name in names[shard::shards]}
        _write_safetensors(folder / file, chosen, dtype)
        index |= dict.fromkeys(chosen, file)
    if shards > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def _write_safetensors(path: Path, tensors: Mapping[str, Array], dtype: str) -> None:
    """Header length, JSON header, then the data; the format's own library has no bfloat16 here."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in tensors.items():
        raw = _DTYPES[dtype](values).tobytes()
        places = [len(data), len(data) + len(raw)]
        shape = list(values.shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": places}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
