"""BERT and RoBERTa: encoders that see a whole text at once, alone or with classes on top.

T tokens, E texts, D hidden size, N heads, H head size, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from inferplane.checkpoint.sentence_layout import Pooling
from inferplane.errors import ConfigError, ModelError, UnsupportedError
from inferplane.interfaces import ForwardContext, LayerKV, Model
from inferplane.layers.activation import plain_op
from inferplane.layers.build import AttentionSite, Builder
from inferplane.model_config import ModelConfig
from inferplane.model_tasks import class_labels

__all__ = ["Bert", "BertClassifier", "Roberta", "RobertaClassifier"]


class Bert(Model):
    """arXiv:1810.04805, with absolute positions."""

    pooling: ClassVar[Pooling] = "mean"
    traceable = False
    prefix = "bert."
    """What names of tensors begin with in models that add something to this one."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        _check(config, build)
        self.weights = build.weights
        size = config.hidden_size
        self.words = build.embedding("embeddings.word_embeddings", config.vocab_size, size)
        self.positions = build.embedding(
            "embeddings.position_embeddings", config.max_position, size
        )
        kinds = config.raw.get("type_vocab_size", 2)
        self.num_kinds = kinds if isinstance(kinds, int) else 2
        self.kinds = build.embedding("embeddings.token_type_embeddings", self.num_kinds, size)
        self.norm = build.layer_norm("embeddings.LayerNorm", size)
        self.layers = [_Layer(build, f"encoder.layer.{n}") for n in range(config.num_layers)]
        self.sites = tuple(build.attention_sites)
        build.weights.rename(self.prefix, "")
        for unused in ("embeddings.position_ids", "cls.", "lm_head."):
            build.weights.ignore(unused)
        self.make_head(config, build)

    def make_head(self, config: ModelConfig, build: Builder) -> None:
        """What comes after the pooling: nothing here, though files may hold it."""
        build.weights.ignore("pooler.")

    def kv_layers(self) -> tuple[LayerKV, ...]:
        return ()

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.weights.load(weights)

    def place(self, positions: Tensor) -> Tensor:
        """Rows of the table of positions."""
        return positions

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        segments = context.segments
        if segments is None or self.num_kinds < 2:
            segments = torch.zeros_like(token_ids)
        x = self.words(token_ids) + self.kinds(segments) + self.positions(self.place(positions))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, context)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        raise UnsupportedError("an encoder has no next token")


class BertClassifier(Bert):
    """BertForSequenceClassification: the first token's state, a dense layer, tanh, classes."""

    pooling = "cls"
    has_head = True

    def make_head(self, config: ModelConfig, build: Builder) -> None:
        size, count = config.hidden_size, len(class_labels(config))
        self._dtype = build.dtype
        self.dense = build.linear("pooler.dense", size, size, bias=True)
        self.classes = build.linear("classifier", size, count, bias=True)

    def head(self, pooled: Tensor) -> Tensor:
        return self.classes(torch.tanh(self.dense(pooled.to(self._dtype)))).float()


class Roberta(Bert):
    """arXiv:1907.11692 and XLM-R (arXiv:1911.02116): positions count from the padding id on."""

    prefix = "roberta."

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        padding = config.raw.get("pad_token_id", 1)
        self._first_position = 1 + (padding if isinstance(padding, int) else 1)
        super().__init__(config, build)

    def place(self, positions: Tensor) -> Tensor:
        return positions + self._first_position


class RobertaClassifier(Roberta):
    """RobertaForSequenceClassification: its dense layer is part of the classifier."""

    pooling = "cls"
    has_head = True

    def make_head(self, config: ModelConfig, build: Builder) -> None:
        super().make_head(config, build)
        size, count = config.hidden_size, len(class_labels(config))
        self._dtype = build.dtype
        self.dense = build.linear("classifier.dense", size, size, bias=True)
        self.classes = build.linear("classifier.out_proj", size, count, bias=True)

    def head(self, pooled: Tensor) -> Tensor:
        return self.classes(torch.tanh(self.dense(pooled.to(self._dtype)))).float()


class _Layer:
    """Attention and feed-forward part, each followed by its residual and a norm."""

    __slots__ = ("_heads", "act", "down", "mlp_norm", "name", "norm", "output", "qkv", "up")

    def __init__(self, build: Builder, prefix: str) -> None:
        config = build.config
        size, inner = config.hidden_size, config.intermediate_size
        self.name = f"{prefix}.attention"
        self._heads = (3, config.num_heads, config.head_dim)
        names = [f"{self.name}.self.{which}" for which in ("query", "key", "value")]
        self.qkv = build.merged_linear(names, size, [size] * 3, True)
        self.output = build.linear(f"{self.name}.output.dense", size, size, bias=True)
        self.norm = build.layer_norm(f"{self.name}.output.LayerNorm", size)
        self.up = build.linear(f"{prefix}.intermediate.dense", size, inner, bias=True)
        self.act = build.op(plain_op(config.activation), I=inner)
        self.down = build.linear(f"{prefix}.output.dense", inner, size, bias=True)
        self.mlp_norm = build.layer_norm(f"{prefix}.output.LayerNorm", size)
        heads, dim = config.num_heads, config.head_dim
        scale = config.attention_scale
        build.announce(AttentionSite(self.name, heads, heads, dim, dim, scale, cached=False))

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        q, k, v = torch.unbind(self.qkv(x).view(-1, *self._heads), 1)
        attended = context.attend(self.name, q, k, v)
        x = self.norm(x + self.output(attended.reshape(x.shape)))
        return self.mlp_norm(x + self.down(self.act(self.up(x))))


def _check(config: ModelConfig, build: Builder) -> None:
    if build.world_size > 1:
        raise ConfigError(
            f"{config.architecture} runs on one rank: serve it with tensor_parallel 1"
        )
    kind = config.raw.get("position_embedding_type", "absolute")
    if kind != "absolute" or config.raw.get("is_decoder"):
        raise ModelError(
            f"{config.architecture}: position_embedding_type {kind!r} or a decoder of this family "
            "is not computed here (accepted: absolute, is_decoder false)"
        )
