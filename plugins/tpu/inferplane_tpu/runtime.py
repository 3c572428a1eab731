"""One XLA device as the core sees it: uploads become inputs of programs, downloads are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from inferplane.execution.download import Download
from inferplane.interfaces import Array, Bucket, DeviceRuntime, MemoryReport
from inferplane_tpu.compiler import Driver

__all__ = ["TpuRuntime"]


class TpuRuntime(DeviceRuntime):
    """Addresses mean nothing here: programs take whatever buffers they are called with."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.torch_device = driver.torch_device
        self.devices = driver.devices

    def memory(self) -> MemoryReport:
        """As the driver reports it."""
        return self.driver.memory()

    def synchronize(self) -> None:
        """Raises DeviceError."""
        self.driver.wait()

    def to_device(self, arrays: Mapping[str, Array], bucket: Bucket | None) -> Mapping[str, Tensor]:
        """One transfer an array; copies, since the client may read them after the call.

        Tensors made while a mode watches operations are of another kind, for which programs would
        be traced again.
        """
        with _disable_current_modes():
            return {
                name: torch.from_numpy(array.copy()).to(self.torch_device)
                for name, array in arrays.items()
            }

    def to_host(self, tensors: Mapping[str, Tensor]) -> Download:
        """What is pending is begun now and fetched by `result()`."""
        self.driver.flush()
        return Download(tensors)

    def spread(self, weight: Tensor, cut: int | None) -> Tensor:
        """As the driver divides it."""
        return self.driver.spread(weight, cut)

    def guard(self) -> AbstractContextManager[None]:
        """Tensors of the inference mode cannot be traced here."""
        return torch.no_grad()
