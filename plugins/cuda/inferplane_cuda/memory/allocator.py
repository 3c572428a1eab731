"""Sleep: torch's tensors on pages of our own, which can go and come back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch

from inferplane.errors import DeviceError
from inferplane.interfaces import DeviceRuntime, Tag
from inferplane_cuda.memory.driver import Driver
from inferplane_cuda.memory.pages import Pages
from inferplane_triton.gpu.allocator import GpuAllocator

__all__ = ["PagedAllocator"]

_TAKE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)
_GIVE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)


class PagedAllocator(GpuAllocator):
    """Allocations inside `pool` lie on pages by purpose; all others in torch's own cache.

    Tensors and captured graphs keep their addresses over `release` and `restore`. Only one thread
    may use the device: torch calls back into Python while it holds its own lock.
    """

    def __init__(self, device: DeviceRuntime) -> None:
        super().__init__(device)
        index = torch.device(device.torch_device).index or 0
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self._pages = Pages(Driver(index))
        self._asleep: set[Tag] = set()
        self._hooks = _TAKE(self._take), _GIVE(self._give)
        take, give = (ctypes.cast(hook, ctypes.c_void_p).value or 0 for hook in self._hooks)
        self._torch_side = torch._C._cuda_customAllocator(take, give)
        # Torch may give a region back as late as at its own end, when nobody holds this any more.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._hooks))

    def pool(self, tag: Tag) -> AbstractContextManager[None]:
        """Charge what is still held at the end to `tag`; DeviceError when the device is full."""
        return self._paging(tag)

    def used(self) -> Mapping[Tag, int]:
        """Bytes by purpose; what sleeps is not used."""
        return {tag: 0 if tag in self._asleep else size for tag, size in super().used().items()}

    def release(self, tag: Tag, keep_copy: bool) -> None:
        """Give the pages of `tag` back, with a host copy of the content if asked."""
        torch.cuda.synchronize(self._device)
        self._pages.release(tag, keep_copy)
        self._asleep.add(tag)

    def restore(self, tag: Tag) -> None:
        """Pages at the same addresses, with the content where a copy was kept. Raises DeviceError
        when somebody else took the memory meanwhile."""
        torch.cuda.empty_cache()
        self._pages.restore(tag)
        self._asleep.discard(tag)

    @contextmanager
    def _paging(self, tag: Tag) -> Iterator[None]:
        pool = torch.cuda.MemPool(self._torch_side)
        try:
            with (
                super().pool(tag),
                self._pages.charged_to(tag),
                torch.cuda.use_mem_pool(pool, self._device),
            ):
                yield
        finally:
            del pool  # what is in use stays; the rest, such as a loader's buffers, goes now
            torch.cuda.empty_cache()

    def _take(self, size: int, device: int, stream: int | None) -> int | None:
        try:
            return self._pages.take(size)
        except DeviceError:
            return None  # torch frees what it has cached, tries again and reports it

    def _give(self, address: int, size: int, device: int, stream: int | None) -> None:
        self._pages.give(address)
