"""KV bytes and their layout."""

from __future__ import annotations

from abc import ABC, abstractmethod

from inferplane.interfaces.batch import Array
from inferplane.interfaces.executor import KVPlan, LayerKV

__all__ = ["KVStore"]


class KVStore(ABC):
    """Owns KV bytes and layout; everyone else knows block ids."""

    @abstractmethod
    def bytes_per_block(self, layer: LayerKV, block_size: int) -> int:
        """True cost of one block of one layer: padding, packing and scales included. Pure."""

    @abstractmethod
    def allocate(self, plan: KVPlan) -> None:
        """Take the memory; every block is zero afterwards."""

    @abstractmethod
    def layer(self, name: str) -> object:
        """The handle that attention backends reading this layout understand."""

    @abstractmethod
    def zero(self, blocks: Array) -> None:
        """Fill blocks with zeros in every layer (StepBatch.zeroed)."""

    @abstractmethod
    def copy(self, pairs: Array) -> None:
        """Copy blocks, [N,2] (source, target), in every layer (StepBatch.copied)."""

    @abstractmethod
    def read_tokens(self, layer: str, slots: Array) -> tuple[Array, Array]:
        """For the kit: keys f32[N,K,H] and values f32[N,K,Hv] at `slots` of one layer."""

    @abstractmethod
    def write_tokens(self, layer: str, slots: Array, k: Array, v: Array) -> None:
        """For the kit: store f32 keys [N,K,H] and values [N,K,Hv] at `slots` of one layer."""
