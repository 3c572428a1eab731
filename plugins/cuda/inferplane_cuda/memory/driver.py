"""The driver's virtual memory: addresses, pages, and which pages lie behind which addresses.

The only module that calls `cuda.bindings` (PyPI: cuda-bindings, which torch's CUDA build brings).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from inferplane.errors import DeviceError

__all__ = ["Driver", "VirtualMemory"]


class VirtualMemory(Protocol):
    """What `Pages` asks for. Sizes are multiples of `granularity`; all raise DeviceError."""

    granularity: int
    """Bytes of a page."""

    def reserve(self, size: int) -> int:
        """An address of `size` bytes that nothing lies behind yet."""

    def map(self, address: int, size: int) -> object:
        """Take pages and put them behind the address; what `unmap` needs to give them back."""

    def unmap(self, address: int, size: int, pages: object) -> None:
        """Give the pages back; the address stays reserved."""

    def forget(self, address: int, size: int) -> None:
        """Give the address back."""

    def read(self, address: int, into: Tensor) -> None:
        """Copy to u8 host memory, and wait for it."""

    def write(self, address: int, content: Tensor) -> None:
        """Copy from u8 host memory, and wait for it."""


class Driver:
    """VirtualMemory on one device, by its index among the visible ones."""

    def __init__(self, index: int) -> None:
        api: Any = import_module("cuda.bindings.driver")
        self._api = api
        place = api.CUmemAllocationProp()
        place.type = api.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        place.location.type = api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        place.location.id = index
        access = api.CUmemAccessDesc()
        access.location.type = api.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = index
        access.flags = api.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self._place, self._access = place, access
        least = api.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self.granularity = int(self._ask(api.cuMemGetAllocationGranularity(place, least)))

    def reserve(self, size: int) -> int:
        api = self._api
        return int(self._ask(api.cuMemAddressReserve(size, 0, api.CUdeviceptr(0), 0)))

    def map(self, address: int, size: int) -> object:
        api = self._api
        pages: object = self._ask(api.cuMemCreate(size, self._place, 0))
        try:
            self._ask(api.cuMemMap(address, size, 0, pages, 0))
            self._ask(api.cuMemSetAccess(address, size, [self._access], 1))
        except DeviceError:
            api.cuMemRelease(pages)
            raise
        return pages

    def unmap(self, address: int, size: int, pages: object) -> None:
        self._ask(self._api.cuMemUnmap(address, size))
        self._ask(self._api.cuMemRelease(pages))

    def forget(self, address: int, size: int) -> None:
        self._ask(self._api.cuMemAddressFree(address, size))

    def read(self, address: int, into: Tensor) -> None:
        self._ask(self._api.cuMemcpyDtoH(into.data_ptr(), address, len(into)))

    def write(self, address: int, content: Tensor) -> None:
        self._ask(self._api.cuMemcpyHtoD(address, content.data_ptr(), len(content)))

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if status != self._api.CUresult.CUDA_SUCCESS:
            raise DeviceError(f"the driver refused memory: {getattr(status, 'name', status)}")
        return values[0] if values else None
