"""The output layer of a class of the transformers library, without the decoder before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Head"]


class Head:
    """hidden[R,D] -> f32[R,V] by the library's own code, scales and caps included."""

    def __init__(self, causal: Any) -> None:
        self._given = _Given()
        setattr(causal, causal.base_model_prefix, self._given)
        self.causal = causal

    def __call__(self, hidden: Tensor) -> Tensor:
        self._given.hidden = hidden[None]
        ids = torch.zeros(1, hidden.shape[0], dtype=torch.int64, device=hidden.device)
        logits: Tensor = self.causal(input_ids=ids, use_cache=False).logits[0].float()
        return logits


class _Given(nn.Module):
    """Stands where the decoder was, and answers the hidden states it is given."""

    hidden: Tensor

    @property
    def decoder(self) -> _Given:
        """Some classes ask a part of the decoder by this name."""
        return self

    def forward(self, *args: Any, **options: Any) -> _Answer:
        return _Answer(self.hidden)


class _Answer:
    """What a decoder of the library returns: hidden states, and nothing of what else it may have
    (caches, states of its layers or of pictures), which its class only passes on.
    """

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
