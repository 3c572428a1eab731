"""The kit's own decoder: whole prompts, no cache, numpy float64. Slow, short, independent.

It shares no arithmetic with the core's layers and ops, so that a mistake there cannot hide here.
Legend: T tokens, N heads, K KV heads, H head size, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inferplane.checkpoint import open_checkpoint
from inferplane.checkpoint.arrays import iterate_arrays
from inferplane.errors import ModelError
from inferplane.interfaces import Array
from inferplane.model_config import ModelConfig, RopeConfig, read_model_config

__all__ = ["ReferenceModel"]


class ReferenceModel:
    """A decoder with rotary embedding and gated feed-forward parts."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError for a checkpoint it cannot read exactly."""
        checkpoint = open_checkpoint(folder)
        self.config: ModelConfig = read_model_config(checkpoint)
        self._w = {name: x.astype(np.float64) for name, x in iterate_arrays(checkpoint)}
        self._offset = 1.0 if self.config.model_type == "gemma3_text" else 0.0
        self._sandwich = "model.layers.0.pre_feedforward_layernorm.weight" in self._w

    def logits(self, token_ids: Sequence[int]) -> Array:
        """f64[T,V]: the scores after each of the tokens."""
        config = self.config
        x_TD = self._w["model.embed_tokens.weight"][list(token_ids)] * config.embedding_scale
        for layer in range(config.num_layers):
            at = f"model.layers.{layer}."
            after = "post_attention_layernorm" if self._sandwich else ""
            y_TD = self._attention(layer, self._norm(x_TD, at + "input_layernorm"))
            x_TD = x_TD + (self._norm(y_TD, at + after) if after else y_TD)
            before = "pre_feedforward_layernorm" if self._sandwich else "post_attention_layernorm"
            y_TD = self._feed_forward(at, self._norm(x_TD, at + before))
            after = "post_feedforward_layernorm" if self._sandwich else ""
            x_TD = x_TD + (self._norm(y_TD, at + after) if after else y_TD)
        head = "model.embed_tokens" if config.tie_embeddings else "lm_head"
        out_TV = self._norm(x_TD, "model.norm") @ self._w[f"{head}.weight"].T
        if config.logits_softcap:
            out_TV = np.tanh(out_TV / config.logits_softcap) * config.logits_softcap
        return np.asarray(out_TV)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` most likely tokens after `prompt`, each recomputed from the start."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]

    def _norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.config.norm_eps)
        return np.asarray(x / scale * (self._w[f"{name}.weight"] + self._offset))

    def _linear(self, x: Array, name: str) -> Array:
        bias = self._w.get(f"{name}.bias")
        out = x @ self._w[f"{name}.weight"].T
        return np.asarray(out if bias is None else out + bias)

    def _attention(self, layer: int, x_TD: Array) -> Array:
        config, at = self.config, f"model.layers.{layer}.self_attn."
        num_tokens, window = len(x_TD), config.layer_windows[layer]
        rope = config.window_rope if window and config.model_type == "gemma3_text" else config.rope
        q_TNH, k_TKH, v_TKH = (
            self._linear(x_TD, f"{at}{name}_proj").reshape(num_tokens, -1, config.head_dim)
            for name in "qkv"
        )
        if f"{at}q_norm.weight" in self._w:
            q_TNH, k_TKH = self._norm(q_TNH, f"{at}q_norm"), self._norm(k_TKH, f"{at}k_norm")
        group = config.num_heads // config.num_kv_heads
        k_TNH = _rotate(k_TKH, rope).repeat(group, axis=1)
        scores_NTT = np.einsum("qnh,knh->nqk", _rotate(q_TNH, rope), k_TNH) * config.attention_scale
        if config.attention_softcap:
            scores_NTT = np.tanh(scores_NTT / config.attention_softcap) * config.attention_softcap
        distance_TT = np.arange(num_tokens)[:, None] - np.arange(num_tokens)[None]
        hidden = (distance_TT < 0) | (distance_TT >= (window or num_tokens))
        weights_NTT = _softmax(np.where(hidden, -np.inf, scores_NTT))
        out_TNH = np.einsum("nqk,knh->qnh", weights_NTT, v_TKH.repeat(group, axis=1))
        return self._linear(out_TNH.reshape(num_tokens, -1), f"{at}o_proj")

    def _feed_forward(self, at: str, x_TD: Array) -> Array:
        moe = self.config.moe
        if moe is None:
            return self._gated(x_TD, f"{at}mlp", ("gate_proj", "up_proj", "down_proj"))
        mixtral = self.config.model_type == "mixtral"
        room = f"{at}block_sparse_moe" if mixtral else f"{at}mlp"
        names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        weights_TE = _softmax(self._linear(x_TD, f"{room}.gate"))
        out_TD = np.zeros_like(x_TD)
        for row, weights_E in enumerate(weights_TE):
            best = np.argsort(-weights_E, kind="stable")[: moe.num_active]
            total = weights_E[best].sum() if moe.renormalize else 1.0
            for expert in best:
                y_D = self._gated(x_TD[row], f"{room}.experts.{expert}", names)
                out_TD[row] += weights_E[expert] / total * y_D
        return out_TD

    def _gated(self, x: Array, at: str, names: tuple[str, str, str]) -> Array:
        gate, up, down = names
        inner = _activation(self._linear(x, f"{at}.{gate}"), self.config.activation)
        return self._linear(inner * self._linear(x, f"{at}.{up}"), f"{at}.{down}")


def _rotate(x_TNH: Array, rope: RopeConfig) -> Array:
    """Rotary embedding of positions 0..T-1, halves apart (Su et al., RoFormer, 2021)."""
    half = x_TNH.shape[-1] // 2
    angles_TH = np.arange(len(x_TNH))[:, None] * rope.theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles_TH)[:, None], np.sin(angles_TH)[:, None]
    a, b = x_TNH[..., :half], x_TNH[..., half:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def _softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _activation(x: Array, name: str) -> Array:
    if name == "silu":
        return np.asarray(x / (1.0 + np.exp(-x)))
    if name in ("gelu_pytorch_tanh", "gelu_new"):
        inner = np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))
    raise ModelError(f"activation {name!r} is not known to the kit's reference")
