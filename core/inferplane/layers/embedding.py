"""Token embeddings in, vocabulary scores out. T tokens, R rows, D model size, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inferplane.interfaces import Communicator

__all__ = ["Embedding", "Logits"]


class Embedding:
    """ids i32[T] -> [T,D], times `scale` rounded to the weights' dtype."""

    __slots__ = ("op", "scale", "weight")

    weight: Tensor

    def __init__(
        self, op: Callable[[Tensor, Tensor], Tensor], scale: float, dtype: torch.dtype
    ) -> None:
        self.op = op
        # Models that scale were trained with the scale in their own dtype.
        self.scale = torch.tensor(scale).to(dtype).item()

    def __call__(self, ids: Tensor) -> Tensor:
        rows = self.op(ids, self.weight)
        return rows if self.scale == 1.0 else rows * self.scale


class Logits:
    """hidden[R,D] -> f32[R,V]; each rank computes a part of the vocabulary."""

    __slots__ = ("communicator", "op", "softcap", "weight")

    weight: Tensor

    def __init__(
        self,
        op: Callable[[Tensor, Tensor], Tensor],
        softcap: float | None,
        communicator: Communicator | None,
    ) -> None:
        """`communicator` None = this rank holds the whole vocabulary."""
        self.op = op
        self.softcap = softcap
        self.communicator = communicator

    def __call__(self, hidden: Tensor) -> Tensor:
        scores = self.op(hidden, self.weight)
        if self.communicator is not None:
            scores = self.communicator.all_gather(scores, 1)
        if self.softcap is None:
            return scores
        return torch.tanh(scores / self.softcap) * self.softcap
