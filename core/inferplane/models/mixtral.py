"""Mixtral: Mistral's attention, with routed experts in every layer."""

from __future__ import annotations

from inferplane.errors import ModelError
from inferplane.layers.attention import SelfAttention
from inferplane.layers.build import Builder
from inferplane.layers.moe import ExpertNames, MoeMlp
from inferplane.models.decoder import Decoder, DecoderLayer, PreNormLayer

__all__ = ["Mixtral"]

_NAMES = ExpertNames(gate="w1", up="w3", down="w2")


class Mixtral(Decoder):
    """arXiv:2401.04088."""

    def make_layer(self, build: Builder, prefix: str, layer: int) -> DecoderLayer:
        moe = build.config.moe
        if moe is None:
            raise ModelError("config.json: MixtralForCausalLM has no num_local_experts")
        attention = SelfAttention(build, f"{prefix}.self_attn", layer)
        experts = MoeMlp(build, f"{prefix}.block_sparse_moe", moe, _NAMES)
        return PreNormLayer(build, prefix, attention, experts)
