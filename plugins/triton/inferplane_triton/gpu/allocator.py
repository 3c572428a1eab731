"""Device memory by purpose, as torch's caching allocator counts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch

from inferplane.errors import DeviceError, UnsupportedError
from inferplane.interfaces import Allocator, DeviceRuntime, Tag

__all__ = ["GpuAllocator"]


class GpuAllocator(Allocator):
    """A ledger of what stayed allocated when each purpose's scope was left.

    Captured graphs hold addresses, so memory cannot be released and restored elsewhere: `release`
    refuses, and says what to do instead where the device has another allocator.
    """

    def __init__(self, device: DeviceRuntime, instead: str = "") -> None:
        self._instead = instead
        self._device = torch.device(device.torch_device)
        self._api = torch.get_device_module(self._device)
        self._used: dict[Tag, int] = {}

    def pool(self, tag: Tag) -> AbstractContextManager[None]:
        """Charge what is still held at the end to `tag`; DeviceError when the device is full."""
        return self._charging(tag)

    def used(self) -> Mapping[Tag, int]:
        """Bytes by purpose."""
        return dict(self._used)

    def release(self, tag: Tag, keep_copy: bool) -> None:
        """Refused: UnsupportedError."""
        raise UnsupportedError(
            "sleep: memory in torch's cache cannot come back to the addresses that captured graphs "
            f"hold{self._instead}"
        )

    @contextmanager
    def _charging(self, tag: Tag) -> Iterator[None]:
        before = self._api.memory_allocated(self._device)
        try:
            yield
        except torch.OutOfMemoryError as error:
            free, total = self._api.mem_get_info(self._device)
            ledger = ", ".join(f"{k} {v / 2**30:.2f} GiB" for k, v in self._used.items())
            raise DeviceError(
                f"the device has no memory left for {tag}: {free / 2**30:.2f} of "
                f"{total / 2**30:.2f} GiB are free, held so far: {ledger or 'nothing'} ({error})"
            ) from error
        grown = self._api.memory_allocated(self._device) - before
        self._used[tag] = self._used.get(tag, 0) + max(grown, 0)
