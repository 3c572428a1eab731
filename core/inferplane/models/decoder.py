"""The frame shared by decoder-only models: embedding, layers, final norm, logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from torch import Tensor

from inferplane.interfaces import ForwardContext, LayerKV, Model
from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.fused import NormedLinear
from inferplane.layers.mlp import GatedMlp
from inferplane.model_config import ModelConfig

__all__ = ["Decoder", "DecoderLayer", "PreNormLayer", "Turn"]

Turn: TypeAlias = tuple[Tensor, Tensor]
"""(cos, sin) of a step's positions."""
DecoderLayer: TypeAlias = Callable[
    [Tensor, Tensor | None, Turn, ForwardContext], tuple[Tensor, Tensor]
]
"""(x, residual or None for the first layer, turn, context) -> (x, residual)."""
_BARE = ("embed_tokens.", "layers.", "norm.")
"""How tensors begin in checkpoints that were saved without an output layer."""


class PreNormLayer:
    """Attention and feed-forward part, each behind a norm and beside a residual."""

    __slots__ = ("_gate_up", "_qkv", "attention", "mlp", "mlp_norm", "norm")

    def __init__(
        self,
        build: Builder,
        prefix: str,
        attention: SelfAttention,
        mlp: Callable[[Tensor], Tensor],
    ) -> None:
        size = build.config.hidden_size
        self.norm = build.norm(f"{prefix}.input_layernorm", size)
        self.mlp_norm = build.norm(f"{prefix}.post_attention_layernorm", size)
        self.attention = attention
        self.mlp = mlp
        self._qkv = NormedLinear(build, self.norm, attention.qkv)
        self._gate_up = None
        if isinstance(mlp, GatedMlp):
            self._gate_up = NormedLinear(build, self.mlp_norm, mlp.gate_up)

    def __call__(
        self, x: Tensor, residual: Tensor | None, turn: Turn, context: ForwardContext
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            qkv, residual = self.attention.qkv(self.norm(x)), x
        else:
            qkv, residual = self._qkv(x, residual)
        x = self.attention.finish(qkv, turn, context)
        if self._gate_up is not None and isinstance(self.mlp, GatedMlp):
            gate_up, residual = self._gate_up(x, residual)
            return self.mlp.finish(gate_up), residual
        x, residual = self.mlp_norm.add(x, residual)
        return self.mlp(x), residual


class Decoder(Model):
    """A model is this frame and its own `make_layer`."""

    norm_offset = 0.0
    """Added to the weights of the final norm."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        self.config = config
        self.weights = build.weights
        self._dtype_name = build.dtype_name
        self.embedding = build.embedding(
            "model.embed_tokens", config.vocab_size, config.hidden_size, config.embedding_scale
        )
        self._layers: Sequence[DecoderLayer] = [
            self.make_layer(build, f"model.layers.{layer}", layer)
            for layer in range(config.num_layers)
        ]
        self.norm = build.norm("model.norm", config.hidden_size, self.norm_offset)
        self._logits = self.make_logits(build)
        for bare in _BARE:
            build.weights.rename(bare, f"model.{bare}")
        self.sites = tuple(build.attention_sites)
        self.rotary = build.rotary(config.rope, config.head_dim)
        # One table serves both kinds of layers unless the model has two bases.
        self.window_rotary = None
        if config.window_rope != config.rope and any(config.layer_windows):
            self.window_rotary = build.rotary(config.window_rope, config.head_dim)
        self._has_window = [window is not None for window in config.layer_windows]

    @abstractmethod
    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        """Layer number `layer`, whose tensors begin with `prefix`."""

    def make_logits(self, build: Builder) -> Callable[[Tensor], Tensor]:
        """The output layer: hidden[R,D] -> f32[R,V]."""
        tied = self.embedding if build.config.tie_embeddings else None
        return build.logits("lm_head", tied)

    def kv_layers(self) -> tuple[LayerKV, ...]:
        return tuple(site.kv(self._dtype_name) for site in self.sites)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.weights.load(weights)

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        x, residual = self.embedding(token_ids), None
        turn = self.rotary(positions)
        window_turn = turn if self.window_rotary is None else self.window_rotary(positions)
        for layer, has_window in zip(self._layers, self._has_window, strict=True):
            x, residual = layer(x, residual, window_turn if has_window else turn, context)
        assert residual is not None
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits(hidden)
