"""Collectives between the ranks of one model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Communicator"]


class Communicator(ABC):
    """Must work in the platform's mode: eager, captured or traced."""

    rank: int
    world_size: int

    @abstractmethod
    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of `x` over all ranks; may reuse `x`'s memory."""

    @abstractmethod
    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """All ranks' `x` concatenated along `dim`, in rank order."""

    def close(self) -> None:
        """(optional) Leave the group."""
