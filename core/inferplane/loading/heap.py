"""Gives memory that the C library keeps for later uses back to the system while weights stream by.

Tensors that are made and dropped layer by layer leave free pages between what stays, which glibc
keeps: measured, several times the weights. Other libraries return pages by themselves.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

__all__ = ["Heap"]

_EVERY_BYTES = 64 << 20
"""Weights between two releases: a release walks the heap, which takes a few milliseconds."""


class Heap:
    """The heap of this process during one load."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._passed = 0

    def passed(self, num_bytes: int) -> None:
        """So many bytes of weights have come since the last call; most may be dropped by now."""
        self._passed += num_bytes
        if self._passed >= _EVERY_BYTES:
            self.release()

    def release(self) -> None:
        """Return every free page now."""
        self._passed = 0
        if self._trim is not None:
            self._trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function, which takes the bytes to keep at the end of the heap; None elsewhere."""
    if platform.libc_ver()[0] != "glibc":
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
