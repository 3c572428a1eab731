"""One executable per bucket."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from inferplane.interfaces.executor import ExecutorStats
from inferplane.interfaces.shapes import Bucket

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GraphCompiler", "StepFunction"]

StepFunction: TypeAlias = (
    "Callable[[Mapping[str, object], Mapping[str, Tensor]], Mapping[str, Tensor]]"
)
"""(kv handles by layer, named inputs) -> named outputs"""


class GraphCompiler(ABC):
    """Turns the core's step function into a device program for one bucket."""

    dynamic: ClassVar[bool] = False
    """(optional) A program serves every shape its bucket holds: steps come to it unpadded."""

    @abstractmethod
    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """Capture, trace or compile for the example's shapes; kv is an argument to be aliased.

        Called once a bucket during `Executor.start`, largest first. Raises DeviceError.
        """

    def before_replay(self, bucket: Bucket, host: tuple[object, ...]) -> None:
        """(optional) Host work before each run; `host` = AttentionMeta.host of each KV group."""

    def seal(self) -> None:
        """(optional) Warm-up is over: refuse to compile, or keep counting."""

    def stats(self) -> ExecutorStats:
        """(optional) Counters of compilation."""
        return ExecutorStats()

    def fingerprint(self) -> str:
        """(optional) Toolchain versions and flags: part of the cache path."""
        return ""
