"""The core's only door to a torch device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from inferplane.interfaces.batch import Array, Pending
from inferplane.interfaces.capabilities import MemoryReport
from inferplane.interfaces.shapes import Bucket

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeviceRuntime"]


class DeviceRuntime(ABC):
    """One device of a worker; the core calls no torch device module itself."""

    torch_device: str
    """What `torch.device()` accepts."""

    @abstractmethod
    def memory(self) -> MemoryReport:
        """Bytes as the device reports them now."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything enqueued is done. Raises DeviceError."""

    @abstractmethod
    def to_device(self, arrays: Mapping[str, Array], bucket: Bucket | None) -> Mapping[str, Tensor]:
        """The step's single upload; dtypes stay. With a bucket, the same addresses every call."""

    @abstractmethod
    def to_host(self, tensors: Mapping[str, Tensor]) -> Pending[Mapping[str, Array]]:
        """Begin the download of a step's results; `result()` waits."""

    @abstractmethod
    def guard(self) -> AbstractContextManager[None]:
        """Entered around all device work: no gradients (inference_mode where it exists)."""

    def close(self) -> None:
        """(optional) Give the device back."""
