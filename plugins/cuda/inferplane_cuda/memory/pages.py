"""Which addresses were handed out for which purpose, and whether pages lie behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.interfaces import Tag
from inferplane_cuda.memory.driver import VirtualMemory

__all__ = ["Pages"]


@dataclass(slots=True)
class _Region:
    size: int
    tag: Tag
    pages: object | None
    """None: asleep."""
    copy: Tensor | None = None
    """u8 host memory with the content of a region that is asleep."""


class Pages:
    """Regions of virtual memory; `release` takes their pages away and `restore` brings new ones to
    the same addresses, so that whatever holds an address (tensors, captured graphs) stays valid."""

    def __init__(self, memory: VirtualMemory) -> None:
        self._memory = memory
        self._regions: dict[int, _Region] = {}
        self._tags: list[Tag] = ["activations"]

    @contextmanager
    def charged_to(self, tag: Tag) -> Iterator[None]:
        """Regions taken inside belong to `tag`."""
        self._tags.append(tag)
        try:
            yield
        finally:
            self._tags.pop()

    def take(self, size: int) -> int:
        """An address with pages behind it. Raises DeviceError when there are none left."""
        memory = self._memory
        size = -(-size // memory.granularity) * memory.granularity
        address = memory.reserve(size)
        try:
            pages = memory.map(address, size)
        except DeviceError:
            memory.forget(address, size)
            raise
        self._regions[address] = _Region(size, self._tags[-1], pages)
        return address

    def give(self, address: int) -> None:
        """End a region, asleep or not."""
        region = self._regions.pop(address)
        if region.pages is not None:
            self._memory.unmap(address, region.size, region.pages)
        self._memory.forget(address, region.size)

    def held(self, tag: Tag) -> int:
        """Bytes of pages behind the regions of `tag`."""
        return sum(r.size for r in self._regions.values() if r.tag == tag and r.pages is not None)

    def release(self, tag: Tag, keep_copy: bool) -> None:
        """Give the pages of `tag` back; nothing may be running on the device."""
        for address, region in self._regions.items():
            if region.tag != tag or region.pages is None:
                continue
            if keep_copy:
                region.copy = torch.empty(region.size, dtype=torch.uint8)
                self._memory.read(address, region.copy)
            self._memory.unmap(address, region.size, region.pages)
            region.pages = None

    def restore(self, tag: Tag) -> None:
        """Undo `release`; what was not copied is undefined. Raises DeviceError when the pages are
        no longer there to be had: then call it again once they are."""
        for address, region in self._regions.items():
            if region.tag != tag or region.pages is not None:
                continue
            region.pages = self._memory.map(address, region.size)
            if region.copy is not None:
                self._memory.write(address, region.copy)
                region.copy = None
