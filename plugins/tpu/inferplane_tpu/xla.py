"""torch_xla as the driver: torch traces whole steps, XLA compiles and keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from inferplane.errors import ConfigError, DeviceError
from inferplane.interfaces import ArtifactCache, ExecutorStats, MemoryReport
from inferplane_tpu import _sdk
from inferplane_tpu.compiler import Driver, Program

__all__ = ["XlaDriver"]

_GIB = 1 << 30
_PROGRAM_SHARE = 32
"""One part in so many of a chip's memory is left to programs."""


class XlaDriver(Driver):
    """The first device of this process's XLA client, or all of them as one.

    Counters are of this driver alone: what XLA compiles while one of its calls is under way.
    """

    torch_device = "xla:0"

    def __init__(
        self,
        client: str,
        cache: ArtifactCache,
        exact: bool,
        kv_bytes: int = 0,
        devices: int = 1,
    ) -> None:
        """`client`: TPU or CPU. `exact`: float32 products must not be rounded. `kv_bytes`: what a
        client that shares the host's memory may spend on the KV cache. `devices`: all that this
        process sees, when more than one. Raises ConfigError when it sees another number.
        """
        _sdk.use_client(client)
        self.devices = devices
        self._mesh = self._shared() if devices > 1 else None
        if client != "CPU":  # whose client multiplies exactly, and cannot read programs back
            _sdk.keep_programs(str(_folder(cache, f"xla-{self.fingerprint()}")))
            if exact:
                _sdk.exact_products()
        self._kv_bytes = kv_bytes
        self._compiles = self._hits = self._fallbacks = 0
        self._seconds = 0.0

    def program(self, fn: Program) -> Program:
        """Through torch.compile: guards at each call, one XLA program."""
        traced = torch.compile(fn, backend="openxla", fullgraph=True, dynamic=False)

        def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            with self._counting():
                return dict(traced(inputs))

        return run

    def donate(self, tensor: Tensor) -> Tensor:
        """Input-output aliasing."""
        return _sdk.donate(tensor)

    def spread(self, tensor: Tensor, cut: int | None) -> Tensor:
        """By annotation: XLA's partitioner divides programs to fit."""
        placed = tensor.to(self.torch_device)
        if self._mesh is not None:
            even = cut is not None and tensor.shape[cut] % self.devices == 0
            _sdk.divide(placed, self._mesh, cut if even else None)
        return placed

    def int8_product(self) -> Callable[[Tensor, Tensor], Tensor]:
        """One product of bytes with sums of 32 bits."""
        return _sdk.int8_product()

    def flush(self) -> None:
        """One graph of everything pending."""
        with self._counting():
            _sdk.flush()

    def wait(self) -> None:
        """Raises DeviceError."""
        try:
            with self._counting():
                _sdk.flush(wait=True)
        except RuntimeError as error:
            raise DeviceError(f"{self.torch_device} failed: {error}") from error

    def memory(self) -> MemoryReport:
        """The chip's; on a host processor the KV budget, since XLA's client there cannot tell."""
        if self._kv_bytes:
            return MemoryReport(self._kv_bytes, self._kv_bytes, shared_with_host=True)
        if self.devices > 1:
            return MemoryReport(0, 0)  # torch_xla cannot tell it of devices that share programs
        try:
            used, limit = _sdk.memory()
        except RuntimeError as error:
            raise DeviceError(f"{self.torch_device} does not tell its memory: {error}") from error
        return MemoryReport(limit, max(limit - used, 0), reserved=limit // _PROGRAM_SHARE)

    def stats(self) -> ExecutorStats:
        """What XLA compiled, what it read from the folder of kept programs, and how many operations
        it left to the host, each of which waits for the device.
        """
        return ExecutorStats(
            compiles=self._compiles,
            cache_hits=self._hits,
            compile_seconds=self._seconds,
            host_syncs=self._fallbacks,
        )

    def fingerprint(self) -> str:
        """All versions of the stack."""
        return "-".join(f"{name}{version}" for name, version in sorted(_sdk.versions().items()))

    def _shared(self) -> object:
        seen = _sdk.share_programs()
        if seen != self.devices:
            raise ConfigError(
                f"tensor_parallel {self.devices}: this process sees {seen} devices, and programs "
                f"are divided over all of them: accepted are 1 and {seen}"
            )
        return _sdk.mesh(seen)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        before = _sdk.counters()
        try:
            yield
        finally:
            now = _sdk.counters()
            self._compiles += now.compiles - before.compiles
            self._seconds += now.compile_seconds - before.compile_seconds
            self._hits += now.cache_hits - before.cache_hits
            self._fallbacks += now.fallbacks - before.fallbacks


def _folder(cache: ArtifactCache, entry: str) -> Path:
    """A folder of the cache that XLA fills itself."""
    return cache.find(entry) or cache.store(entry, Path.mkdir)
