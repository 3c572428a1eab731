"""GPT-2: learned positions, centred norms, an ungated feed-forward part, transposed matrices."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.interfaces import ForwardContext, LayerKV, Model
from inferplane.layers.activation import plain_op
from inferplane.layers.build import Builder, LinearLayer
from inferplane.layers.stacked import stacked_linear
from inferplane.model_config import ModelConfig

__all__ = ["Gpt2"]


class Gpt2(Model):
    """Radford et al., "Language Models are Unsupervised Multitask Learners", 2019."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        if build.world_size > 1:
            raise ConfigError("GPT2LMHeadModel runs on one rank: serve it with tensor_parallel 1")
        self.config = config
        self.weights = build.weights
        size = config.hidden_size
        self.embedding = build.embedding("transformer.wte", config.vocab_size, size)
        self.positions = build.embedding("transformer.wpe", config.max_position, size)
        self._layers = [
            _Layer(build, f"transformer.h.{layer}") for layer in range(config.num_layers)
        ]
        self.norm = build.layer_norm("transformer.ln_f", size)
        self._logits = build.logits("lm_head", self.embedding if config.tie_embeddings else None)
        self.sites = tuple(build.attention_sites)
        self._dtype_name = build.dtype_name

    def kv_layers(self) -> tuple[LayerKV, ...]:
        return tuple(site.kv(self._dtype_name) for site in self.sites)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.weights.load(weights)

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        x = self.embedding(token_ids) + self.positions(positions)
        for layer in self._layers:
            x = layer(x, context)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits(hidden)


class _Layer:
    __slots__ = ("_heads", "act", "down", "mlp_norm", "name", "norm", "output", "qkv", "up")

    def __init__(self, build: Builder, prefix: str) -> None:
        config = build.config
        size, inner = config.hidden_size, config.intermediate_size
        self.name = f"{prefix}.attn"
        self._heads = (3, config.num_heads, config.head_dim)
        self.norm = build.layer_norm(f"{prefix}.ln_1", size)
        self.mlp_norm = build.layer_norm(f"{prefix}.ln_2", size)
        self.qkv = _transposed(build, f"{prefix}.attn.c_attn", size, 3 * size)
        self.output = _transposed(build, f"{prefix}.attn.c_proj", size, size)
        self.up = _transposed(build, f"{prefix}.mlp.c_fc", size, inner)
        self.act = build.op(plain_op(config.activation), I=inner)
        self.down = _transposed(build, f"{prefix}.mlp.c_proj", inner, size)
        build.attention(
            self.name,
            config.num_heads,
            config.num_heads,
            config.head_dim,
            scale=config.attention_scale,
        )
        build.weights.ignore(f"{prefix}.attn.bias")  # a stored causal mask

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        q, k, v = torch.unbind(self.qkv(self.norm(x)).view(-1, *self._heads), 1)
        attended = context.attend(self.name, q, k, v)
        x = x + self.output(attended.reshape(x.shape))
        return x + self.down(self.act(self.up(self.mlp_norm(x))))


def _transposed(build: Builder, name: str, inputs: int, outputs: int) -> LinearLayer:
    part = (range(outputs),)
    return stacked_linear(build, name, inputs, (outputs,), part, bias=True, transposed=True)
