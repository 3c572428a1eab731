"""A GGUF file's metadata told in the keys of Hugging Face's JSON files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from inferplane.checkpoint.files import TensorInfo
from inferplane.checkpoint.gguf_header import GGML_BLOCKS
from inferplane.checkpoint.gguf_names import hugging_face_name
from inferplane.errors import ModelError

__all__ = ["generation_of", "model_config_of", "tokenizer_config_of"]

ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "mistral": ("mistral", "MistralForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
"""general.architecture -> (model_type, architecture)."""

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""Control tokens that end an answer; older files name none of them as an end token."""
_CONTROL_TOKEN = 3
_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
_GEMMA3_27B_LAYERS = 62
_T = TypeVar("_T", int, float, str)


class _Pairs:
    """Typed access to the key-values of one file; `{arch}` in a key is its architecture."""

    def __init__(self, path: Path, pairs: Mapping[str, object]) -> None:
        self.path = path
        self.pairs = pairs
        self.arch = self.need("general.architecture", str)

    def find(self, key: str, kind: type[_T]) -> _T | None:
        key = key.replace("{arch}", self.arch) if "{arch}" in key else key
        found = self.pairs.get(key)
        if found is None:
            return None
        if kind is float and type(found) is int:
            return kind(found)
        if type(found) is not kind:
            raise ModelError(f"{self.path}: {key} is {_shown(found)}, needs {kind.__name__}")
        return found

    def need(self, key: str, kind: type[_T]) -> _T:
        found = self.find(key, kind)
        if found is None:
            shown = key.replace("{arch}", self.arch) if "{arch}" in key else key
            raise ModelError(f"{self.path}: has no {shown}")
        return found

    def tokens(self) -> list[object]:
        found = self.pairs.get("tokenizer.ggml.tokens", [])
        if not isinstance(found, list) or (found and type(found[0]) is not str):
            raise ModelError(f"{self.path}: tokenizer.ggml.tokens is no list of strings")
        return found

    def token_id(self, which: str) -> int | None:
        found = self.find(f"tokenizer.ggml.{which}_token_id", int)
        if found is not None and not 0 <= found < max(len(self.tokens()), 1):
            raise ModelError(
                f"{self.path}: tokenizer.ggml.{which}_token_id {found} is outside the "
                f"{len(self.tokens())} tokens of the file"
            )
        return found


def model_config_of(
    path: Path, pairs: Mapping[str, object], tensors: Mapping[str, TensorInfo]
) -> dict[str, object]:
    """config.json of the model. Raises ModelError for missing keys and unknown architectures."""
    meta = _Pairs(path, pairs)
    if meta.arch not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"{path}: architecture {meta.arch!r} is not supported (known: {known})")
    model_type, architecture = ARCHITECTURES[meta.arch]
    hidden = meta.need("{arch}.embedding_length", int)
    heads = meta.need("{arch}.attention.head_count", int)
    if heads < 1:
        raise ModelError(f"{path}: {meta.arch}.attention.head_count is {heads}, needs at least 1")
    head_dim = meta.find("{arch}.attention.key_length", int) or (
        meta.find("{arch}.rope.dimension_count", int) if meta.arch == "llama" else None
    )
    config: dict[str, object] = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": meta.need("{arch}.feed_forward_length", int),
        "num_hidden_layers": meta.need("{arch}.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.find("{arch}.attention.head_count_kv", int) or heads,
        "head_dim": head_dim or hidden // heads,
        "max_position_embeddings": meta.need("{arch}.context_length", int),
        "rms_norm_eps": meta.need("{arch}.attention.layer_norm_rms_epsilon", float),
        "rope_theta": meta.find("{arch}.rope.freq_base", float) or 10_000.0,
        "vocab_size": _vocab_size(meta, tensors),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "dtype": _dtype(tensors),
        "bos_token_id": meta.token_id("bos"),
        "eos_token_id": _end_tokens(meta),
    }
    config.update(_rope_scaling(meta, tensors))
    config.update(_window(meta))
    config.update(_experts(meta))
    config["quantization_config"] = _quantization(meta, tensors)
    if meta.arch == "gemma3":
        config.update(_gemma3(meta, config))
    return config


def generation_of(path: Path, pairs: Mapping[str, object]) -> dict[str, object]:
    """generation_config.json: end tokens and the sampling that the file recommends."""
    meta = _Pairs(path, pairs)
    found: dict[str, object] = {"eos_token_id": _end_tokens(meta)}
    bos = meta.token_id("bos")
    if bos is not None:
        found["bos_token_id"] = bos
    return found | {name: pairs[key] for key, name in _SAMPLING.items() if key in pairs}


def tokenizer_config_of(path: Path, pairs: Mapping[str, object]) -> dict[str, object]:
    """tokenizer_config.json: the texts of the special tokens and when they are added."""
    meta = _Pairs(path, pairs)
    tokens = meta.tokens()
    found: dict[str, object] = {}
    for which, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = meta.token_id(which)
        if token is not None and tokens:
            found[f"{key}_token"] = tokens[token]
    for key in ("add_bos_token", "add_eos_token"):
        flag = pairs.get(f"tokenizer.ggml.{key}")
        if isinstance(flag, bool):
            found[key] = flag
    return found


def _vocab_size(meta: _Pairs, tensors: Mapping[str, TensorInfo]) -> int:
    """The rows of the embedding: what the model computes with, whatever else is claimed."""
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{meta.path}: has no tensor 'token_embd.weight'")
    return embedding.shape[0]


def _dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """The type of most weights; quantised ones are computed in bfloat16."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.num_bytes
    most = max(sizes, key=sizes.__getitem__, default="F32")
    return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")


def _quantization(meta: _Pairs, tensors: Mapping[str, TensorInfo]) -> dict[str, object]:
    """The ggml type of each layer that is stored in blocks; {} where none is."""
    types = {
        hugging_face_name(name, meta.arch).removesuffix(".weight"): tensor.dtype
        for name, tensor in tensors.items()
        if len(tensor.shape) in (2, 3) and GGML_BLOCKS[tensor.dtype][0] > 1
    }
    return {"quant_method": "gguf", "types": types} if types else {}


def _end_tokens(meta: _Pairs) -> list[int]:
    ids = [meta.token_id(which) for which in ("eos", "eot", "eom")]
    kinds = meta.pairs.get("tokenizer.ggml.token_type")
    tokens = meta.tokens()
    if isinstance(kinds, list) and len(kinds) == len(tokens):
        for text in _TURN_ENDS:
            place = tokens.index(text) if text in tokens else None
            if place is not None and kinds[place] == _CONTROL_TOKEN:
                ids.append(place)
    return list(dict.fromkeys(token for token in ids if token is not None))


def _rope_scaling(meta: _Pairs, tensors: Mapping[str, TensorInfo]) -> dict[str, object]:
    factors = tensors.get("rope_freqs.weight")
    if factors is not None:
        return {"rope_scaling": {"rope_type": "factors", "factors": _floats(factors)}}
    kind = meta.find("{arch}.rope.scaling.type", str) or "none"
    if kind == "none":
        return {}
    scaling: dict[str, object] = {"rope_type": kind}
    keys = {
        "factor": "factor",
        "original_context_length": "original_max_position_embeddings",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    }
    for key, name in keys.items():
        value = meta.find(
            f"{{arch}}.rope.scaling.{key}", int if key.startswith("original") else float
        )
        if value is not None:
            scaling[name] = value
    return {"rope_scaling": scaling}


def _floats(tensor: TensorInfo) -> list[float]:
    """The numbers of one small F32 vector."""
    if tensor.dtype != "F32" or len(tensor.shape) != 1 or tensor.num_bytes > 65_536:
        raise ModelError(
            f"{tensor.file}: tensor {tensor.name!r} is {list(tensor.shape)} of {tensor.dtype}, "
            "needs a vector of F32"
        )
    raw = np.fromfile(tensor.file, dtype="<f4", count=tensor.shape[0], offset=tensor.offset)
    numbers: list[float] = raw.tolist()
    return numbers


def _window(meta: _Pairs) -> dict[str, object]:
    window = meta.find("{arch}.attention.sliding_window", int)
    if not window:
        return {"sliding_window": None}
    pattern = meta.pairs.get(f"{meta.arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        kinds = ["sliding_attention" if flag else "full_attention" for flag in pattern]
        return {"sliding_window": window, "layer_types": kinds}
    return {"sliding_window": window}


def _experts(meta: _Pairs) -> dict[str, object]:
    count = meta.find("{arch}.expert_count", int)
    if not count:
        return {}
    found: dict[str, object] = {
        "num_experts": count,
        "num_local_experts": count,
        "num_experts_per_tok": meta.need("{arch}.expert_used_count", int),
    }
    width = meta.find("{arch}.expert_feed_forward_length", int)
    if width is not None:
        found["moe_intermediate_size"] = width
    if meta.arch == "llama":
        found |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    if meta.arch == "qwen3moe":
        found |= {"norm_topk_prob": True}
    return found


def _gemma3(meta: _Pairs, config: Mapping[str, object]) -> dict[str, object]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    assert isinstance(hidden, int) and isinstance(heads, int)
    # Only the largest model scales by hidden_size / heads; the format has no key for it.
    large = config["num_hidden_layers"] == _GEMMA3_27B_LAYERS
    found: dict[str, object] = {
        "rope_theta": meta.find("{arch}.rope.freq_base", float) or 1_000_000.0,
        "rope_local_base_freq": meta.find("{arch}.rope.freq_base_swa", float) or 10_000.0,
        "query_pre_attn_scalar": hidden // heads if large else config["head_dim"],
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": meta.find("{arch}.final_logit_softcapping", float),
    }
    pattern = meta.pairs.get(f"{meta.arch}.attention.sliding_window_pattern")
    if type(pattern) is int:
        found["sliding_window_pattern"] = pattern
    return found


def _shown(found: object) -> str:
    return f"{found!r}" if isinstance(found, int | float | str) else f"a {type(found).__name__}"
