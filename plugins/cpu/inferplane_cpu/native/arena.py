"""Memory for packed weights: large maps that ask for huge pages, handed out in order of packing.

Streaming weights through 4 KiB pages costs a page walk every 64 lines and stops the hardware's
prefetcher at each boundary; one map in program order streams without either.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

__all__ = ["WeightArena", "zero_rows"]

CHUNK_BYTES = 64 << 20
ALIGNMENT = 64
_HUGE_PAGE_BYTES = 2 << 20


class WeightArena:
    """Hands out zeroed uint8 tensors that live as long as any of them does."""

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, num_bytes: int) -> Tensor:
        """uint8[num_bytes], 64-byte aligned, zero."""
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + num_bytes > self._chunk.numel():
            self._chunk, start = _map(max(CHUNK_BYTES, num_bytes)), 0
        self._used = start + num_bytes
        return self._chunk[start : self._used]


def zero_rows(rows: int, width: int) -> Tensor:
    """f32[rows,width] of zeros; wide rows of many tokens would need more small pages than the
    processor remembers."""
    num_bytes = rows * width * 4
    if num_bytes < _HUGE_PAGE_BYTES:
        return torch.zeros(rows, width)
    return _map(num_bytes).view(torch.float32).view(rows, width)


def _map(num_bytes: int) -> Tensor:
    # private: Python's default is a shared map, which Linux keeps in small pages
    region = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=torch.uint8)
