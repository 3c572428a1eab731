"""Qwen3 MoE: Qwen3's attention, with routed experts in most layers."""

from __future__ import annotations

from inferplane.errors import ModelError
from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.mlp import GatedMlp
from inferplane.layers.moe import MoeMlp
from inferplane.models.decoder import Decoder, DecoderLayer, PreNormLayer

__all__ = ["Qwen3Moe"]


class Qwen3Moe(Decoder):
    """arXiv:2505.09388."""

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        config = build.config
        if config.moe is None:
            raise ModelError("config.json: Qwen3MoeForCausalLM has no num_experts")
        bias = config.attention_bias
        attention = SelfAttention(
            build, f"{prefix}.self_attn", layer, bias=bias, output_bias=bias, qk_norm=True
        )
        if layer in config.moe.dense_layers:
            return PreNormLayer(build, prefix, attention, GatedMlp(build, f"{prefix}.mlp"))
        return PreNormLayer(build, prefix, attention, MoeMlp(build, f"{prefix}.mlp", config.moe))
