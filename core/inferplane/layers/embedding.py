"""Token embeddings in, vocabulary scores out. T tokens, R rows, D model size, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, Communicator, QuantScheme

__all__ = ["Embedding", "Logits", "PackedLogits", "PackedTable"]


@dataclass(slots=True)
class PackedTable:
    """The quantised form of an embedding, for an output layer that is tied to it."""

    scheme: QuantScheme
    users: list[Callable[[CanonicalWeight], None]] = field(default_factory=list)
    """Called with the whole weight when it is loaded."""


class Embedding:
    """ids i32[T] -> [T,D], times `scale` rounded to the weights' dtype."""

    __slots__ = ("op", "packed", "scale", "weight")

    weight: Tensor

    def __init__(
        self, op: Callable[[Tensor, Tensor], Tensor], scale: float, dtype: torch.dtype
    ) -> None:
        self.op = op
        # Models that scale were trained with the scale in their own dtype.
        self.scale = torch.tensor(scale).to(dtype).item()
        self.packed: PackedTable | None = None

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
        return _finished(self.op(hidden, self.weight), self.softcap, self.communicator)


class PackedLogits:
    """hidden[R,D] -> f32[R,V] over quantised weights."""

    __slots__ = ("communicator", "layer", "softcap")

    def __init__(
        self,
        layer: Callable[[Tensor], Tensor],
        softcap: float | None,
        communicator: Communicator | None,
    ) -> None:
        """`communicator` None = this rank holds the whole vocabulary."""
        self.layer = layer
        self.softcap = softcap
        self.communicator = communicator

    def __call__(self, hidden: Tensor) -> Tensor:
        return _finished(self.layer(hidden).float(), self.softcap, self.communicator)


def _finished(scores: Tensor, softcap: float | None, communicator: Communicator | None) -> Tensor:
    if communicator is not None:
        scores = communicator.all_gather(scores, 1)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
