"""Whisper's encoder: a spectrogram becomes states, which keep nothing from one to the next.

C mel bins, F frames, N states = F / 2, D hidden size, K heads, H head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from inferplane.layers.activation import plain_op
from inferplane.layers.build import Builder
from inferplane.layers.parameters import hold
from inferplane.speech_config import SpeechConfig

__all__ = ["SpeechEncoder"]

_WIDTH = 3
"""Frames that a convolution sees."""
_ALL = slice(None)


class SpeechEncoder:
    """Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022."""

    def __init__(self, build: Builder, speech: SpeechConfig) -> None:
        size = build.config.hidden_size
        self._dtype = build.dtype
        self._first = _Convolution(build, "model.encoder.conv1", speech.mel_bins, stride=1)
        self._second = _Convolution(build, "model.encoder.conv2", size, stride=2)
        self._positions = build.embedding("model.encoder.embed_positions", speech.num_states, size)
        self._layers = [
            _Layer(build, f"model.encoder.layers.{layer}", speech) for layer in range(speech.layers)
        ]
        self._norm = build.layer_norm("model.encoder.layer_norm", size)

    def __call__(self, mel: Tensor) -> Tensor:
        """[C,F] -> [N,D]"""
        x = F.gelu(self._first(mel.to(self._dtype)[None]))
        x = F.gelu(self._second(x))[0].T
        x = x + self._positions.weight
        for layer in self._layers:
            x = layer(x)
        return self._norm(x)


class _Convolution:
    __slots__ = ("_stride", "bias", "weight")

    weight: Tensor
    bias: Tensor

    def __init__(self, build: Builder, name: str, inputs: int, stride: int) -> None:
        self._stride = stride
        size = build.config.hidden_size
        for attribute, shape in (("weight", (size, inputs, _WIDTH)), ("bias", (size,))):
            held = hold(build, self, attribute, shape, build.dtype)
            build.weights.expect(f"{name}.{attribute}", shape, held.piece((_ALL,), (_ALL,)))

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, stride=self._stride, padding=1)


class _Layer:
    """Attention over all states and a feed-forward part, each behind a norm."""

    def __init__(self, build: Builder, prefix: str, speech: SpeechConfig) -> None:
        size, inner = build.config.hidden_size, speech.intermediate_size
        self._heads = (speech.heads, size // speech.heads)
        self._norm = build.layer_norm(f"{prefix}.self_attn_layer_norm", size)
        self._query = build.linear(f"{prefix}.self_attn.q_proj", size, size, bias=True)
        self._key = build.linear(f"{prefix}.self_attn.k_proj", size, size)
        self._value = build.linear(f"{prefix}.self_attn.v_proj", size, size, bias=True)
        self._output = build.linear(f"{prefix}.self_attn.out_proj", size, size, bias=True)
        self._mlp_norm = build.layer_norm(f"{prefix}.final_layer_norm", size)
        self._up = build.linear(f"{prefix}.fc1", size, inner, bias=True)
        self._act = build.op(plain_op(build.config.activation), I=inner)
        self._down = build.linear(f"{prefix}.fc2", inner, size, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        held = self._norm(x)
        q, k, v = (
            part(held).view(-1, *self._heads).transpose(0, 1)
            for part in (self._query, self._key, self._value)
        )
        seen = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        x = x + self._output(seen.transpose(0, 1).reshape(x.shape))
        y: Tensor = self._down(self._act(self._up(self._mlp_norm(x))))
        return torch.add(x, y)
