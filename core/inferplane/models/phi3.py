"""Phi-3: Llama's layers, whose projections lie stacked in the checkpoint."""

from __future__ import annotations

from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.mlp import GatedMlp
from inferplane.models.decoder import Decoder, DecoderLayer, PreNormLayer

__all__ = ["Phi3"]


class Phi3(Decoder):
    """arXiv:2404.14219."""

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        attention = SelfAttention(build, f"{prefix}.self_attn", layer, stacked="qkv_proj")
        mlp = GatedMlp(build, f"{prefix}.mlp", stacked="gate_up_proj")
        return PreNormLayer(build, prefix, attention, mlp)
