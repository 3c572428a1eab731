"""Models of the transformers library that see pictures, their decoder over our attention.

The picture's encoder and what brings it to the decoder's size are the library's own and keep no
state; the decoder is served like any other. N placeholders, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from inferplane.interfaces import Array, ForwardContext, SeesPictures
from inferplane.layers.build import Builder
from inferplane.loading import WeightTable
from inferplane.model_config import ModelConfig
from inferplane.models.picture_sizes import largest_picture
from inferplane.models.transformers_decoder import TransformersDecoder
from inferplane.models.transformers_library import seeing_class, seeing_config

__all__ = ["TransformersPictures"]

_OLDER_NAMES = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.vision_model.", "model.vision_tower.vision_model."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)
"""What tensors are called in files and in the library's class; the first that the class has."""


class TransformersPictures(TransformersDecoder, SeesPictures):
    """One `…ForConditionalGeneration` of the library that reads pictures and text."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__(config, build)
        _take_older_names(build.weights)
        self._dtype = build.dtype
        self._hidden_size = config.hidden_size
        self._whole = config.whole
        self._taken = frozenset(signature(self._inner.get_image_features).parameters)

    @staticmethod
    def library_class(config: ModelConfig) -> Any:
        """The class that takes pictures."""
        return seeing_class(config)

    @staticmethod
    def library_config(config: ModelConfig, build: Builder) -> Any:
        """Of the whole model."""
        return seeing_config(config, build.dtype)

    @staticmethod
    def decoder_of(causal: Any) -> nn.Module:
        """The language model within."""
        decoder: nn.Module = causal.base_model.get_decoder()
        return decoder

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        if context.media is None:
            return super().forward(token_ids, positions, context)
        rows, values = context.media
        self.route(context)
        embedded = self._base.get_input_embeddings()(token_ids.long())
        embedded = embedded.index_copy(0, rows, values.to(embedded.dtype))
        return self.hidden(positions, inputs_embeds=embedded[None])

    def encode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        given = {
            name: held.to(self._dtype) if held.is_floating_point() else held
            for name, held in arrays.items()
            if name in self._taken  # processors also say what only they need: num_patches, …
        }
        made = self._inner.get_image_features(**given, return_dict=True).pooler_output
        return torch.cat([part.reshape(-1, self._hidden_size) for part in made])

    def largest_picture(self) -> Mapping[str, Array]:
        return largest_picture(self._whole)


def _take_older_names(weights: WeightTable) -> None:
    expected = weights.expected()
    for stored, name in _OLDER_NAMES:
        if any(held.startswith(name) for held in expected):
            weights.rename(stored, name)
