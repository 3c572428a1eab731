"""The host processor as a device: nothing to copy, nothing to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.interfaces import Array, Bucket, DeviceRuntime, MemoryReport

__all__ = ["Done", "HostRuntime"]

_REFERENCE_KV_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Done:
    """A download that is over before anyone asks."""

    arrays: Mapping[str, Array]

    def result(self) -> Mapping[str, Array]:
        """The arrays."""
        return self.arrays


class HostRuntime(DeviceRuntime):
    """Runs everything at once, in the caller's thread.

    `memory` reports the budget of the KV cache, since what the host has free says nothing about
    what it may spend.
    """

    torch_device = "cpu"

    def __init__(self, kv_bytes: int = _REFERENCE_KV_BYTES) -> None:
        self._kv_bytes = kv_bytes
        self._inputs: dict[Bucket, dict[str, Tensor]] = {}

    def memory(self) -> MemoryReport:
        """The KV budget as total and free, whatever else the host holds."""
        return MemoryReport(self._kv_bytes, self._kv_bytes, shared_with_host=True)

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def to_device(self, arrays: Mapping[str, Array], bucket: Bucket | None) -> Mapping[str, Tensor]:
        """Tensors over the arrays' own memory; with a bucket, copies at the same addresses."""
        views = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if bucket is None:
            return views
        held = self._inputs.setdefault(bucket, {})
        for name, view in views.items():
            if name not in held or held[name].shape != view.shape:
                held[name] = view.clone()
            else:
                held[name].copy_(view)
        return {name: held[name] for name in views}

    def to_host(self, tensors: Mapping[str, Tensor]) -> Done:
        """The tensors as arrays, at once."""
        return Done({name: tensor.numpy() for name, tensor in tensors.items()})

    def guard(self) -> AbstractContextManager[None]:
        """Inference mode."""
        return torch.inference_mode()
