"""The parts a wide platform brings, or the core's own where it brings none."""

from __future__ import annotations

from dataclasses import dataclass

from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.execution.torch_kv_store import TorchKVStore
from inferplane.interfaces import Allocator, DeviceRuntime, KVStore, Platform, WorkerContext

__all__ = ["Parts"]


@dataclass(frozen=True)
class Parts:
    """What a worker would make of one platform."""

    platform: Platform
    context: WorkerContext
    runtime: DeviceRuntime
    allocator: Allocator

    @classmethod
    def of(cls, platform: Platform, context: WorkerContext) -> Parts:
        """Made as TorchExecutor makes them."""
        runtime = platform.create_device(context) or HostRuntime()
        allocator = platform.create_allocator(context, runtime) or TorchAllocator()
        return cls(platform, context, runtime, allocator)

    @property
    def torch_device(self) -> str:
        """What torch calls the device."""
        return self.runtime.torch_device

    def new_store(self) -> KVStore:
        """A KV store without memory yet."""
        own = self.platform.create_kv_store(self.context, self.runtime, self.allocator)
        return own or TorchKVStore(self.runtime, self.allocator)
