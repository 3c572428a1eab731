"""Gemma 3 on text: windowed layers between full ones, norms before and after each part."""

from __future__ import annotations

from torch import Tensor

from inferplane.interfaces import ForwardContext
from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.mlp import GatedMlp
from inferplane.model_config import ModelConfig
from inferplane.models.decoder import Decoder, DecoderLayer, Turn

__all__ = ["Gemma3"]

_OFFSET = 1.0
"""Gemma stores norm weights minus one."""


class Gemma3(Decoder):
    """arXiv:2503.19786."""

    norm_offset = _OFFSET

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__(config, build)
        # The multimodal class holds this model under another name, beside parts for images.
        build.weights.rename("model.language_model.", "model.")
        build.weights.rename("language_model.", "")
        for part in ("vision_tower.", "multi_modal_projector."):
            build.weights.ignore(part)
            build.weights.ignore(f"model.{part}")

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        return _Layer(build, prefix, layer)


class _Layer:
    __slots__ = ("attention", "mlp", "mlp_norm", "norm", "post_mlp_norm", "post_norm")

    def __init__(self, build: Builder, prefix: str, layer: int) -> None:
        size = build.config.hidden_size
        self.norm = build.norm(f"{prefix}.input_layernorm", size, _OFFSET)
        self.post_norm = build.norm(f"{prefix}.post_attention_layernorm", size, _OFFSET)
        self.mlp_norm = build.norm(f"{prefix}.pre_feedforward_layernorm", size, _OFFSET)
        self.post_mlp_norm = build.norm(f"{prefix}.post_feedforward_layernorm", size, _OFFSET)
        self.mlp = GatedMlp(build, f"{prefix}.mlp")
        bias = build.config.attention_bias
        self.attention = SelfAttention(
            build,
            f"{prefix}.self_attn",
            layer,
            bias=bias,
            output_bias=bias,
            qk_norm=True,
            norm_offset=_OFFSET,
        )

    def __call__(
        self, x: Tensor, residual: Tensor | None, turn: Turn, context: ForwardContext
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.norm(x), x
        else:
            x, residual = self.norm.add(x, residual)
        x = self.post_norm(self.attention(x, turn, context))
        x, residual = self.mlp_norm.add(x, residual)
        return self.post_mlp_norm(self.mlp(x)), residual
