"""Models as numbers, their limits, and the baseline that was recorded for two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BASELINE_S", "GOALS", "SHAPES", "VARIANTS", "Shape", "serial_floor_s"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder-only model in bf16."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    rope_theta: float
    eps: float
    experts: int = 0
    """Of each layer, `intermediate` wide; 0 = dense."""
    active: int = 0
    """Experts of a token."""

    def config(self) -> dict[str, object]:
        """The config.json of this shape."""
        routed = {
            "num_experts": self.experts,
            "num_experts_per_tok": self.active,
            "moe_intermediate_size": self.intermediate,
            "norm_topk_prob": True,
        }
        return {
            **(routed if self.experts else {}),
            "architectures": [self.architecture],
            "model_type": _TYPES[self.architecture],
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": 131072,
            "rms_norm_eps": self.eps,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "attention_bias": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    @property
    def layer_params(self) -> int:
        """Of the matrices of all layers that one token is multiplied with."""
        return self._params(max(1, self.active))

    def weight_bytes(self, rows: int) -> int:
        """What a decode step reads for so many rows, each with experts of its own by chance; an
        input embedding is a row gather."""
        missed = (1 - self.active / self.experts) ** rows if self.experts else 0.0
        met = self.experts * (1 - missed) if self.experts else 1
        return 2 * (self._params(met) + self.vocab * self.hidden)

    def _params(self, parts: float) -> int:
        qkv = self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim
        out = self.heads * self.head_dim * self.hidden
        return int(self.layers * (qkv + out + parts * 3 * self.hidden * self.intermediate))

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


_TYPES = {
    "LlamaForCausalLM": "llama",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
SHAPES = {
    "llama-3.1-8b": Shape(
        "LlamaForCausalLM", 32, 4096, 32, 8, 128, 14336, 128256, False, 500000.0, 1e-5
    ),
    "qwen3-0.6b": Shape(
        "Qwen3ForCausalLM", 28, 1024, 16, 8, 128, 3072, 151936, True, 1000000.0, 1e-6
    ),
    "qwen3-30b-a3b": Shape(
        "Qwen3MoeForCausalLM", 48, 2048, 32, 4, 128, 768, 151936, False, 1000000.0, 1e-6, 128, 8
    ),
}
"""Tiny ones for a dry run are made by `run.py --tiny`."""

VARIANTS: dict[str, dict[str, object]] = {
    "fp8": {"quant_method": "online", "weights": "fp8"},
    "fp8-tensor": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "int8": {"quant_method": "online", "weights": "int8"},
    "int4": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
}
"""Weights of another kind, `MODEL:VARIANT`: a checkpoint's quantization_config."""

BASELINE_S = {
    "llama-3.1-8b": {
        "batch 1": 1.309,
        "first token": 0.0165,
        "mixed": 14.803,
        "fixed": 10.831,
        "prefill": 3.435,
        "prefix": 0.874,
    },
    "qwen3-0.6b": {
        "batch 1": 0.461,
        "first token": 0.0086,
        "mixed": 6.499,
        "fixed": 3.420,
        "prefill": 0.484,
        "prefix": 0.553,
    },
}
"""Seconds of vLLM 0.24.0 with FlashAttention 3 on one H200: docs/performance.md."""

GOALS = {
    "llama-3.1-8b": {
        "batch 1": (215, 250),
        "first token": (0.016, 0.013),
        "mixed": (10_500, 12_500),
        "fixed": (6_300, 7_500),
        "prefill": (38_000, 42_000),
        "prefix": (5_000, 6_500),
    },
    "qwen3-0.6b": {"batch 1": (800, 1_500), "mixed": (25_000, 30_000)},
}
"""(floor, goal): output tok/s; input tok/s for prefill; seconds for the first token."""


def serial_floor_s(
    shape: Shape,
    inputs: Sequence[int],
    outputs: Sequence[int],
    cached: int,
    bytes_s: float,
    flop_s: float,
) -> float:
    """Prefill arithmetic, then each decode step's weights (or arithmetic) and KV, in turn."""
    head = shape.vocab * shape.hidden
    pair = 4 * shape.heads * shape.head_dim * shape.layers
    flop = 0.0
    for length in inputs:
        new = length - cached
        flop += 2 * shape.layer_params * new + 2 * head + pair * (new * cached + new * new / 2)
    total = max(shape.weight_bytes(sum(inputs)) / bytes_s, flop / flop_s)
    for step in range(1, max(outputs)):
        context = [n + step for n, out in zip(inputs, outputs, strict=True) if out > step]
        math = 2 * (shape.layer_params + head) * len(context) / flop_s
        read = shape.weight_bytes(len(context)) / bytes_s
        total += max(read, math) + sum(context) * shape.kv_bytes / bytes_s
    return total
