"""The one object a hardware plugin must supply; its module imports no torch and no vendor SDK."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inferplane.interfaces.allocator import Allocator
from inferplane.interfaces.capabilities import (
    Capabilities,
    Change,
    EngineConfig,
    ModelShape,
    Probe,
    Topology,
)
from inferplane.interfaces.communicator import Communicator
from inferplane.interfaces.device import DeviceRuntime
from inferplane.interfaces.executor import Executor
from inferplane.interfaces.graphs import GraphCompiler
from inferplane.interfaces.kv import KVStore
from inferplane.interfaces.shapes import ShapePolicy

__all__ = ["ArtifactCache", "Platform", "WorkerContext"]


class ArtifactCache(Protocol):
    """Compiled programs on disk, one writer at a time; failures are never entries."""

    def find(self, entry: str) -> Path | None:
        """The stored file or folder, or None."""
        ...

    def store(self, entry: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a temporary path, then publish it under `entry`."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Everything a worker's parts may read."""

    config: EngineConfig
    caps: Capabilities
    model: ModelShape
    shapes: ShapePolicy
    cache: ArtifactCache
    rank: int = 0
    local_rank: int = 0
    rendezvous: str = ""
    """Where ranks meet (a torch.distributed init_method)."""


class Platform(ABC):
    """One kind of hardware.

    `probe` to `worker_env` run in the planner process: they initialise no device, change nothing
    and answer with plain data. `create_*` run in the worker and import torch and the SDK inside;
    None means the core's own part. They raise ConfigError or DeviceError.
    """

    @abstractmethod
    def probe(self, env: Mapping[str, str]) -> Probe:
        """Look for the hardware. Never raises: no hardware is an answer."""

    @abstractmethod
    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """What it can do; `model` is None when asked by doctor."""

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """(optional) Adapt the configuration; idempotent; ConfigError when nothing would work."""
        return ()

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """(optional) How many processes, with how many devices each, and where."""
        return Topology(config.tensor_parallel)

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """(optional) Environment in place before the worker starts."""
        return {}

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """(optional) Which buckets exist. Pure; the engine and doctor ask it too."""
        return ShapePolicy()

    def create_executor(self, context: WorkerContext) -> Executor | None:
        """(optional) Narrow level: this one alone."""
        return None

    def create_device(self, context: WorkerContext) -> DeviceRuntime | None:
        """(optional) None = the host processor."""
        return None

    def create_allocator(self, context: WorkerContext, device: DeviceRuntime) -> Allocator | None:
        """(optional) None = torch's caching allocator with a ledger."""
        return None

    def create_kv_store(
        self, context: WorkerContext, device: DeviceRuntime, allocator: Allocator
    ) -> KVStore | None:
        """(optional) None = the core's store for layouts nhd and hnd."""
        return None

    def create_compiler(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> GraphCompiler | None:
        """(optional) None = run every bucket eagerly, padded."""
        return None

    def create_communicator(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> Communicator | None:
        """(optional) None = torch.distributed over gloo where there is more than one rank."""
        return None
