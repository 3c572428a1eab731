"""Device memory by purpose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager

from inferplane.errors import UnsupportedError
from inferplane.interfaces.executor import Tag

__all__ = ["Allocator"]


class Allocator(ABC):
    """Charges allocations to a purpose, and may give a purpose's memory back."""

    @abstractmethod
    def pool(self, tag: Tag) -> AbstractContextManager[None]:
        """Allocations inside are charged to `tag`. Raises DeviceError if the device is full."""

    @abstractmethod
    def used(self) -> Mapping[Tag, int]:
        """Bytes held, by purpose."""

    def release(self, tag: Tag, keep_copy: bool) -> None:
        """(optional) Free a purpose's device memory, keeping a host copy if asked."""
        raise UnsupportedError("release")

    def restore(self, tag: Tag) -> None:
        """(optional) Undo `release`, at the same addresses if graphs exist."""
        raise UnsupportedError("restore")
