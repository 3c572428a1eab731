"""Whisper: a decoder that sees its own text and the states of an encoder of speech.

T tokens, A of them at audio positions and X others; N states of one recording, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import Array, ForwardContext, LayerKV, Model, SeesPictures
from inferplane.layers.activation import plain_op
from inferplane.layers.build import AttentionSite, Builder
from inferplane.model_config import ModelConfig
from inferplane.models.speech_encoder import SpeechEncoder
from inferplane.speech_config import read_speech_config

__all__ = ["Whisper"]


class Whisper(Model, SeesPictures):
    """Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.

    At audio positions a layer's cache holds the keys and values of its cross attention, at the
    text's those of its self attention.
    """

    traceable = False

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        speech = read_speech_config(config.whole)
        if speech is None:
            raise ModelError(f"{config.architecture}: config.json describes no model that hears")
        if build.world_size > 1:
            raise ConfigError(
                f"{config.architecture} runs on one rank: serve it with tensor_parallel 1"
            )
        self.weights = build.weights
        self._dtype, self._dtype_name = build.dtype, build.dtype_name
        self._speech = speech
        size = config.hidden_size
        scale = size**0.5 if config.raw.get("scale_embedding") is True else 1.0
        self.encoder = SpeechEncoder(build, speech)
        self.embedding = build.embedding(
            "model.decoder.embed_tokens", config.vocab_size, size, scale
        )
        self.positions = build.embedding("model.decoder.embed_positions", speech.most_text, size)
        self._layers = [
            _Layer(build, f"model.decoder.layers.{layer}") for layer in range(config.num_layers)
        ]
        self.norm = build.layer_norm("model.decoder.layer_norm", size)
        self._logits = build.logits("proj_out", self.embedding if config.tie_embeddings else None)
        self.sites = tuple(site for site in build.attention_sites if site.reads is None)

    def kv_layers(self) -> tuple[LayerKV, ...]:
        return tuple(site.kv(self._dtype_name) for site in self.sites)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.weights.load(weights)

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        """Rows at audio positions come out as zeros: nothing is drawn from them."""
        heard = context.heard
        assert heard is not None, "the executor splits the steps of models that hear"
        states = self._states(len(token_ids), context)
        if states is not None:
            for layer in self._layers:
                layer.listen(states, context)
        hidden = torch.zeros(
            len(token_ids), self.norm.weight.shape[0], dtype=self._dtype, device=token_ids.device
        )
        if not len(heard.text_rows):
            return hidden
        rows = heard.text_rows
        places = positions.index_select(0, rows) - self._speech.padded
        # text of a run at start may be longer than any request's
        places = places.clamp(max=self._speech.most_text - 1)
        x = self.embedding(token_ids.index_select(0, rows)) + self.positions(places)
        for layer in self._layers:
            x = layer(x, context)
        return hidden.index_copy(0, rows, self.norm(x).to(self._dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits(hidden)

    def encode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """[N,D] of `input_features` f32[C,F], one window of audio."""
        return self.encoder(arrays["input_features"])

    def largest_picture(self) -> Mapping[str, Array]:
        """All windows are of one size."""
        shape = self._speech.mel_bins, self._speech.num_frames
        return {"input_features": np.zeros(shape, np.float32)}

    def _states(self, num_tokens: int, context: ForwardContext) -> Tensor | None:
        """[A,D], zeros where audio is padded; None = the step has no audio."""
        assert context.heard is not None
        rows = context.heard.audio_rows
        if not len(rows):
            return None
        size = self.norm.weight.shape[0]
        states = torch.zeros(num_tokens, size, dtype=self._dtype, device=rows.device)
        if context.media is not None:
            placed, values = context.media
            states = states.index_copy(0, placed, values.to(self._dtype))
        return states.index_select(0, rows)


class _Layer:
    """Self attention, cross attention and a feed-forward part, each behind a norm."""

    def __init__(self, build: Builder, prefix: str) -> None:
        config = build.config
        size, inner = config.hidden_size, config.intermediate_size
        self._heads = (config.num_heads, config.head_dim)
        self._own, self._other = f"{prefix}.self_attn", f"{prefix}.encoder_attn"
        self._norm = build.layer_norm(f"{self._own}_layer_norm", size)
        self._query = build.linear(f"{self._own}.q_proj", size, size, bias=True)
        self._key = build.linear(f"{self._own}.k_proj", size, size)
        self._value = build.linear(f"{self._own}.v_proj", size, size, bias=True)
        self._output = build.linear(f"{self._own}.out_proj", size, size, bias=True)
        self._cross_norm = build.layer_norm(f"{self._other}_layer_norm", size)
        self._cross_query = build.linear(f"{self._other}.q_proj", size, size, bias=True)
        self._cross_key = build.linear(f"{self._other}.k_proj", size, size)
        self._cross_value = build.linear(f"{self._other}.v_proj", size, size, bias=True)
        self._cross_output = build.linear(f"{self._other}.out_proj", size, size, bias=True)
        self._mlp_norm = build.layer_norm(f"{prefix}.final_layer_norm", size)
        self._up = build.linear(f"{prefix}.fc1", size, inner, bias=True)
        self._act = build.op(plain_op(config.activation), I=inner)
        self._down = build.linear(f"{prefix}.fc2", inner, size, bias=True)
        heads, dim = self._heads
        site = AttentionSite(self._own, heads, heads, dim, dim, config.attention_scale)
        build.announce(site)
        build.announce(replace(site, name=self._other, reads=self._own))

    def listen(self, states: Tensor, context: ForwardContext) -> None:
        """Keep the keys and values of states[A,D]."""
        keys = self._cross_key(states).view(-1, *self._heads)
        values = self._cross_value(states).view(-1, *self._heads)
        context.keep(self._own, keys, values)

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        held = self._norm(x)
        q, k, v = (
            part(held).view(-1, *self._heads) for part in (self._query, self._key, self._value)
        )
        x = x + self._output(context.attend(self._own, q, k, v).reshape(x.shape))
        q = self._cross_query(self._cross_norm(x)).view(-1, *self._heads)
        x = x + self._cross_output(context.attend(self._other, q, None, None).reshape(x.shape))
        out: Tensor = x + self._down(self._act(self._up(self._mlp_norm(x))))
        return out
