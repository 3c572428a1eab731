"""One compiled program a bucket, through whichever compiler; kept in the compile cache."""

from __future__ import annotations

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from inferplane.errors import DeviceError
from inferplane.interfaces import ArtifactCache, Bucket, ExecutorStats
from inferplane_neuron.collectives import Collectives

__all__ = ["Cores", "Driver", "Program", "Programs"]

_logger = logging.getLogger(__name__)

Cores: TypeAlias = Sequence[tuple[Tensor, ...]]
"""A program's arguments on each core; shapes and dtypes are the same on all."""
Program: TypeAlias = Callable[[Cores], Sequence[Sequence[Tensor]]]
"""Arguments of each core -> outputs of each core."""
_Signature: TypeAlias = tuple[tuple[tuple[int, ...], str], ...]


class Driver(ABC):
    """A compiler that works ahead of time, and the runtime of what it makes, for so many cores."""

    torch_device: str
    """Where the arguments of programs lie."""
    cores: int

    @abstractmethod
    def collectives(self) -> Collectives:
        """What the cores of a program tell each other by."""

    @abstractmethod
    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        """Compile for the shapes and dtypes of one core's example, into a file. Raises anything."""

    @abstractmethod
    def load(self, path: Path) -> Program:
        """The program of that file. Raises anything."""


class Programs:
    """All programs of one graph; those made after `seal` are counted apart."""

    def __init__(
        self, module: nn.Module, driver: Driver, cache: ArtifactCache, version: str = ""
    ) -> None:
        """`version` of the module's code: programs of another one are other entries."""
        self._module = module
        self._version = version
        self._driver = driver
        self._cache = cache
        self._loaded: dict[Bucket, tuple[Program, _Signature]] = {}
        self._compiles = self._hits = self._late = 0
        self._seconds = 0.0
        self._sealed = False

    def prepare(self, bucket: Bucket, cores: Cores) -> None:
        """Load the bucket's program, compiled now unless the cache holds it.

        An entry that cannot be read is compiled again, once. Raises DeviceError.
        """
        began, example = time.perf_counter(), cores[0]
        entry = f"{bucket}-{len(cores)}-{_digest(self._version, example)}.program"
        path = self._cache.find(entry)
        program = None if path is None else self._load(path)
        if program is None:
            path = self._compile(bucket, entry, example)
            program = self._load(path)
            if program is None:
                raise DeviceError(f"{path}: the compiler's own program of {bucket} cannot be read")
        else:
            self._hits += 1
        self._loaded[bucket] = program, _signature(example)
        self._seconds += time.perf_counter() - began

    def run(self, bucket: Bucket, cores: Cores) -> Sequence[Sequence[Tensor]]:
        """The outputs of each core. Raises DeviceError for arguments of another bucket or dtype."""
        if bucket not in self._loaded:
            raise DeviceError(f"no program was compiled for {bucket}")
        program, expected = self._loaded[bucket]
        if any(_signature(arguments) != expected for arguments in cores):
            raise DeviceError(f"{bucket}: arguments have other shapes or dtypes than its program")
        return program(cores)

    def seal(self) -> None:
        """Warm-up is over."""
        self._sealed = True

    def stats(self) -> ExecutorStats:
        """How many were compiled, found in the cache, and compiled too late."""
        return ExecutorStats(
            compiles=self._compiles,
            cache_hits=self._hits,
            compiles_after_start=self._late,
            compile_seconds=self._seconds,
        )

    def _compile(self, bucket: Bucket, entry: str, example: tuple[Tensor, ...]) -> Path:
        self._compiles += 1
        self._late += self._sealed
        try:
            return self._cache.store(
                entry, lambda path: self._driver.compile(self._module, example, path)
            )
        except Exception as error:  # compilers raise their own kinds
            raise DeviceError(f"compiling {bucket} failed: {error}") from error

    def _load(self, path: Path) -> Program | None:
        try:
            return self._driver.load(path)
        except Exception as error:  # whatever a damaged file makes the runtime raise
            _logger.warning("%s cannot be read and is compiled again: %s", path, error)
            return None


def _digest(version: str, example: Sequence[Tensor]) -> str:
    """Programs of other code, or other arguments, are other entries."""
    return hashlib.sha256(repr((version, _signature(example))).encode()).hexdigest()[:12]


def _signature(tensors: Sequence[Tensor]) -> _Signature:
    return tuple((tuple(x.shape), str(x.dtype)) for x in tensors)
