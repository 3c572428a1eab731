"""The ledger over host memory; the KV cache is a map, which the kernel fills as it is written."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.execution.torch_allocator import StorageRef, TorchAllocator
from inferplane.interfaces import Tag

__all__ = ["HostAllocator"]

_HUGE_PAGE_BYTES = 2 << 20


@dataclass(slots=True)
class _Map:
    """A private map and the tensor over it."""

    region: mmap.mmap
    storage: StorageRef
    num_bytes: int
    copy: Tensor | None = None


class HostAllocator(TorchAllocator):
    """Adds `map`: the KV cache of a server with little traffic then takes little memory."""

    def __init__(self) -> None:
        super().__init__()
        self._maps: list[_Map] = []
        self._kv_asleep = False

    def map(self, num_bytes: int) -> Tensor:
        """u8[num_bytes] of zeros, charged to "kv" for as long as a tensor views it.

        Raises DeviceError when the system refuses.
        """
        self._forget_unused()
        try:
            # private: a shared map could neither be given back nor use huge pages
            region = mmap.mmap(-1, max(num_bytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise DeviceError(f"no map of {num_bytes} bytes for the KV cache: {error}") from error
        if num_bytes >= _HUGE_PAGE_BYTES:
            region.madvise(mmap.MADV_HUGEPAGE)
        tensor = torch.frombuffer(region, dtype=torch.uint8)[:num_bytes]
        self._maps.append(_Map(region, StorageRef(tensor.untyped_storage()), num_bytes))
        return tensor

    def used(self) -> Mapping[Tag, int]:
        """What the ledger holds, and the maps."""
        self._forget_unused()
        used = dict(super().used())
        mapped = sum(held.num_bytes for held in self._maps)
        if mapped:
            used["kv"] = used.get("kv", 0) + (0 if self._kv_asleep else mapped)
        return used

    def release(self, tag: Tag, keep_copy: bool) -> None:
        """Maps give their memory back and keep their addresses."""
        super().release(tag, keep_copy)
        if tag != "kv" or self._kv_asleep:
            return
        self._forget_unused()
        for held in self._maps:
            if keep_copy:
                held.copy = torch.frombuffer(held.region, dtype=torch.uint8).clone()
            held.region.madvise(mmap.MADV_DONTNEED)
        self._kv_asleep = True

    def restore(self, tag: Tag) -> None:
        """What the copy held, else zeros."""
        super().restore(tag)
        if tag != "kv":
            return
        self._kv_asleep = False
        for held in self._maps:
            if held.copy is not None:
                torch.frombuffer(held.region, dtype=torch.uint8).copy_(held.copy)
                held.copy = None

    def _forget_unused(self) -> None:
        self._maps = [held for held in self._maps if held.storage.storage() is not None]
