"""From torch functions to device programs. What makes them is a `Driver`, so that the one in use,
which has seen its last release, can be replaced without a change elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from inferplane.errors import DeviceError
from inferplane.execution.own_code import own_code
from inferplane.interfaces import (
    Bucket,
    ExecutorStats,
    GraphCompiler,
    MemoryReport,
    StepFunction,
)

__all__ = ["BucketCompiler", "Driver", "Program"]

Program: TypeAlias = "Callable[[dict[str, Tensor]], Mapping[str, Tensor]]"
"""Named inputs -> named outputs; weights and KV are closed over."""


class Driver(ABC):
    """Everything that depends on the tool chain between torch and the device."""

    torch_device: str
    """What `torch.device()` accepts."""
    devices: int = 1
    """How many devices its programs are divided over."""

    @abstractmethod
    def program(self, fn: Program) -> Program:
        """`fn` as one whole program, made for the shapes of the first call.

        Calls with other shapes, branches on values and anything torch cannot trace are errors or
        further compiles, never a silent run op by op.
        """

    @abstractmethod
    def donate(self, tensor: Tensor) -> Tensor:
        """Inside a program: `tensor` is written in place instead of copied as a whole."""

    @abstractmethod
    def spread(self, tensor: Tensor, cut: int | None) -> Tensor:
        """`tensor` on the device, or dimension `cut` of it divided over all of them; where that
        leaves a rest, and for None, each holds it as a whole."""

    @abstractmethod
    def int8_product(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(a int8[T,I], b int8[O,I]) -> i32[T,O], inside of programs and outside."""

    @abstractmethod
    def flush(self) -> None:
        """Begin what was recorded outside of programs."""

    @abstractmethod
    def wait(self) -> None:
        """Until the device has done everything. Raises DeviceError."""

    @abstractmethod
    def memory(self) -> MemoryReport:
        """Bytes as the device reports them."""

    @abstractmethod
    def stats(self) -> ExecutorStats:
        """Compiles so far, those read from a cache and the seconds they took."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Versions that a kept program depends on."""


class BucketCompiler(GraphCompiler):
    """One program a bucket, over one Driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """Trace and compile for `example`, which also runs it once. Raises DeviceError."""
        expected = _signature(example)
        made = self._driver.program(own_code(lambda inputs: fn(kv, inputs)))

        def program(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            if _signature(inputs) != expected:
                wrong = sorted(_signature(inputs).items() ^ expected.items())
                raise DeviceError(f"{bucket}: inputs differ from the program's: {wrong}")
            with _disable_current_modes():  # who watches operations has no business in a program
                return made(dict(inputs))

        program(kv, example)
        return program

    def stats(self) -> ExecutorStats:
        """The driver's counters."""
        return self._driver.stats()

    def fingerprint(self) -> str:
        """The driver's versions."""
        return self._driver.fingerprint()


def _signature(inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(x.shape), str(x.dtype)) for name, x in inputs.items()}
