"""Qwen3: Llama's layers with a norm over each query and key head."""

from __future__ import annotations

from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.mlp import GatedMlp
from inferplane.models.decoder import Decoder, DecoderLayer, PreNormLayer

__all__ = ["Qwen3"]


class Qwen3(Decoder):
    """arXiv:2505.09388."""

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        bias = build.config.attention_bias
        attention = SelfAttention(
            build, f"{prefix}.self_attn", layer, bias=bias, output_bias=bias, qk_norm=True
        )
        return PreNormLayer(build, prefix, attention, GatedMlp(build, f"{prefix}.mlp"))
