"""Decoders without an output layer: the last token's state stands for the text, or has classes.

R rows, E texts, D hidden size, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from inferplane.errors import ModelError, UnsupportedError
from inferplane.layers.build import Builder
from inferplane.model_config import ModelConfig
from inferplane.model_tasks import class_labels
from inferplane.models.decoder import Decoder
from inferplane.models.llama import Llama
from inferplane.models.phi3 import Phi3
from inferplane.models.qwen2 import Qwen2
from inferplane.models.qwen3 import Qwen3

__all__ = [
    "LlamaClassifier",
    "LlamaVectors",
    "Phi3Classifier",
    "Phi3Vectors",
    "Qwen2Classifier",
    "Qwen2Vectors",
    "Qwen3Classifier",
    "Qwen3Vectors",
]


class _Vectors(Decoder):
    """Hidden states are all there is."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        both_ways = config.raw.get("use_bidirectional_attention")
        if both_ways or config.raw.get("is_causal") is False:
            raise ModelError(
                f"{config.architecture}: it was trained to see the whole text from each token "
                "(is_causal, use_bidirectional_attention), which is computed for encoders alone"
            )
        super().__init__(config, build)

    def make_logits(self, build: Builder) -> Callable[[Tensor], Tensor]:
        build.weights.ignore("lm_head.")
        return _no_logits


class _Classifier(_Vectors):
    """One linear layer over the last token's state."""

    has_head: ClassVar[bool] = True

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__(config, build)
        self._dtype = build.dtype
        self.classes = build.linear("score", config.hidden_size, len(class_labels(config)))

    def head(self, pooled: Tensor) -> Tensor:
        return self.classes(pooled.to(self._dtype)).float()


def _no_logits(hidden: Tensor) -> Tensor:
    raise UnsupportedError("a model without an output layer has no next token")


class LlamaVectors(_Vectors, Llama):
    """LlamaModel, MistralModel."""


class LlamaClassifier(_Classifier, Llama):
    """LlamaForSequenceClassification, MistralForSequenceClassification."""


class Phi3Vectors(_Vectors, Phi3):
    """Phi3Model."""


class Phi3Classifier(_Classifier, Phi3):
    """Phi3ForSequenceClassification."""


class Qwen2Vectors(_Vectors, Qwen2):
    """Qwen2Model."""


class Qwen2Classifier(_Classifier, Qwen2):
    """Qwen2ForSequenceClassification."""


class Qwen3Vectors(_Vectors, Qwen3):
    """Qwen3Model."""


class Qwen3Classifier(_Classifier, Qwen3):
    """Qwen3ForSequenceClassification."""
