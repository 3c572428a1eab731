"""One Gaudi device of a process through torch and the opened SDK."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.execution.download import Download
from inferplane.interfaces import Array, Bucket, DeviceRuntime, MemoryReport
from inferplane_gaudi._sdk import Stack

__all__ = ["HpuRuntime"]

_PROGRAM_SHARE = 20
"""A twentieth of the device stays free for programs, which are loaded after the KV is taken."""


class HpuRuntime(DeviceRuntime):
    """Steps and downloads run on the device's current stream, and so keep their order."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.torch_device = stack.torch_device
        self._device = torch.device(stack.torch_device)
        self._inputs: dict[Bucket, dict[str, Tensor]] = {}

    def memory(self) -> MemoryReport:
        """As the SDK counts now."""
        free, total = self.stack.memory()
        return MemoryReport(total, free, reserved=total // _PROGRAM_SHARE)

    def synchronize(self) -> None:
        """Wait for everything enqueued. Raises DeviceError."""
        try:
            self.stack.synchronize()
        except RuntimeError as error:
            raise DeviceError(f"{self.torch_device} failed: {error}") from error

    def to_device(self, arrays: Mapping[str, Array], bucket: Bucket | None) -> Mapping[str, Tensor]:
        """A copy each; with a bucket into the same tensors as long as their shapes stay."""
        held = {} if bucket is None else self._inputs.setdefault(bucket, {})
        try:
            return {name: self._place(held, name, array) for name, array in arrays.items()}
        except RuntimeError as error:
            raise DeviceError(f"the upload to {self.torch_device} failed: {error}") from error

    def to_host(self, tensors: Mapping[str, Tensor]) -> Download:
        """Enqueue the copies behind the step; `result()` waits for them."""
        copies = {
            name: tensor.to("cpu", non_blocking=True, copy=True) for name, tensor in tensors.items()
        }
        return Download(copies, self.stack.mark().synchronize)

    def guard(self) -> AbstractContextManager[None]:
        """Inference mode."""
        return torch.inference_mode()

    def close(self) -> None:
        """Forget the buffers; the SDK gives the device back when the process ends."""
        self._inputs.clear()

    def _place(self, held: dict[str, Tensor], name: str, array: Array) -> Tensor:
        view = torch.from_numpy(array)
        tensor = held.get(name)
        if tensor is not None and tensor.shape == view.shape and tensor.dtype == view.dtype:
            return tensor.copy_(view, non_blocking=True)
        held[name] = view.to(self._device, non_blocking=True, copy=True)
        return held[name]
