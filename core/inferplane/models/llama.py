"""Llama and what shares its layers: SmolLM2, Mistral (with or without a window)."""

from __future__ import annotations

from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.mlp import GatedMlp
from inferplane.models.decoder import Decoder, DecoderLayer, PreNormLayer

__all__ = ["Llama"]


class Llama(Decoder):
    """arXiv:2302.13971; Mistral: arXiv:2310.06825."""

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        bias = build.config.attention_bias
        attention = SelfAttention(build, f"{prefix}.self_attn", layer, bias=bias, output_bias=bias)
        mlp = GatedMlp(build, f"{prefix}.mlp", build.config.mlp_bias)
        return PreNormLayer(build, prefix, attention, mlp)
