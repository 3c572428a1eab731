"""Qwen2 and Qwen2.5: Llama's layers with biases on the query, key and value projections."""

from __future__ import annotations

from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.mlp import GatedMlp
from inferplane.models.decoder import Decoder, DecoderLayer, PreNormLayer

__all__ = ["Qwen2"]


class Qwen2(Decoder):
    """arXiv:2407.10671."""

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        attention = SelfAttention(build, f"{prefix}.self_attn", layer, bias=True)
        return PreNormLayer(build, prefix, attention, GatedMlp(build, f"{prefix}.mlp"))
