"""What cores of one program tell each other while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["Alone", "Collectives"]


class Collectives(ABC):
    """Operations inside a program that every core runs at the same place."""

    @abstractmethod
    def total(self, x: Tensor) -> Tensor:
        """The sum of what all cores hold, in `x`'s shape and dtype, the same on each."""

    @abstractmethod
    def joined(self, x: Tensor) -> Tensor:
        """x[...,N] of all cores side by side in their order: [...,N * cores], on each."""


class Alone(Collectives):
    """Of one core."""

    def total(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def joined(self, x: Tensor) -> Tensor:
        """x itself."""
        return x
