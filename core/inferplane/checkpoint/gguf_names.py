"""The names GGUF gives to tensors, and Hugging Face's names for the same."""

from __future__ import annotations

import re

__all__ = ["NEIGHBOURS", "NORM_OFFSETS", "hugging_face_name"]

NEIGHBOURS = ("llama",)
"""Architectures whose query and key rows were reordered to rotate neighbouring elements."""
NORM_OFFSETS = {"gemma3": 1.0}
"""What was added to every norm weight."""

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.*.gate_proj",
    "ffn_up_exps": "mlp.experts.*.up_proj",
    "ffn_down_exps": "mlp.experts.*.down_proj",
}
_OWN: dict[str, dict[str, str]] = {
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "llama": {
        "ffn_gate_inp": "block_sparse_moe.gate",
        "ffn_gate_exps": "block_sparse_moe.experts.*.w1",
        "ffn_up_exps": "block_sparse_moe.experts.*.w3",
        "ffn_down_exps": "block_sparse_moe.experts.*.w2",
    },
}
"""What an architecture calls otherwise."""
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def hugging_face_name(name: str, architecture: object) -> str:
    """Hugging Face's name of a tensor; an unknown one stays, for the model to refuse it.

    A "*" stands for the number of an expert: the tensor holds those of all, one after the other.
    """
    stem, _, end = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{end}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    layer = _LAYER | _OWN.get(str(architecture), {})
    found = layer.get(match[2])
    return name if found is None else f"model.layers.{match[1]}.{found}.{match[3]}"
