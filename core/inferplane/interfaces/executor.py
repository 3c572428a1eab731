"""The narrow waist: token ids in, sampled ids out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from inferplane.errors import UnsupportedError
from inferplane.interfaces.batch import Pending, StepBatch, StepResult

__all__ = [
    "Choice",
    "Executor",
    "ExecutorStats",
    "KVGroup",
    "KVPlan",
    "LayerKV",
    "Progress",
    "Tag",
]


@dataclass(frozen=True, slots=True)
class LayerKV:
    """The KV cache of one attention layer; head sizes in elements."""

    name: str
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    dtype: str
    layout: str = "nhd"
    window: int | None = None
    k_largest: tuple[float, ...] = ()
    """For 8-bit dtypes: the largest magnitude of keys, calibrated for each head; beyond it they are
    clipped. () = a scale is taken from what is written."""
    v_largest: tuple[float, ...] = ()
    """The same for values."""


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers that share block tables; blocks wholly outside `window` are freed."""

    layers: tuple[LayerKV, ...] = ()
    window: int | None = None


@dataclass(frozen=True, slots=True)
class KVPlan:
    """How the KV memory is cut."""

    num_blocks: int
    """Includes scratch block 0."""
    block_size: int
    """Tokens; equal to max_model_len: one region per request."""
    groups: tuple[KVGroup, ...] = (KVGroup(),)
    """Layers stay empty when the executor keeps them to itself."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which implementation won at one site, and why each other one did not."""

    kind: str
    site: str
    name: str
    owner: str
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """Counters since load."""

    compiles: int = 0
    cache_hits: int = 0
    compiles_after_start: int = 0
    compile_seconds: float = 0.0
    host_syncs: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    """op -> uses of the core's reference."""


Progress: TypeAlias = Callable[[Literal["load", "profile", "warm_up"], int, int, str], None]
"""(phase, done, total, detail)"""
Tag: TypeAlias = Literal["weights", "kv", "activations", "graphs"]


class Executor(ABC):
    """One rank. The engine or worker calls everything from one thread, in the order below."""

    reads_segments: ClassVar[bool] = False
    """It obeys `StepBatch.segments`; encoders are refused without it."""
    reads_media: ClassVar[bool] = False
    """It obeys `StepBatch.media`; models that see pictures are refused without it."""
    hears: ClassVar[bool] = False
    """It splits steps of models that hear into audio and text; they are refused without it."""

    @abstractmethod
    def load(self, progress: Progress) -> None:
        """Bring the weights to the device. Raises ConfigError, DeviceError."""

    @abstractmethod
    def plan_kv(self) -> KVPlan:
        """Say how many blocks fit, after a trial run of the largest step.

        The core takes the least over ranks. Raises CapacityError when not even one request fits.
        """

    @abstractmethod
    def start(self, plan: KVPlan, progress: Progress) -> None:
        """Allocate KV, compile and run every bucket on block 0; then `execute` may come."""

    @abstractmethod
    def execute(self, batch: StepBatch) -> Pending[StepResult]:
        """Enqueue one step and return. Here and in `result()`: DeviceError only."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; called after any failure too, and possibly twice."""

    def sleep(self, tags: tuple[Tag, ...], keep_copy: bool) -> None:
        """(optional) Free device memory of these purposes, with or without a host copy."""
        raise UnsupportedError("sleep")

    def wake(self, tags: tuple[Tag, ...]) -> None:
        """(optional) Undo `sleep`; content is undefined where no copy was kept."""
        raise UnsupportedError("wake")

    def choices(self) -> tuple[Choice, ...]:
        """(optional) What was selected and why; shown by `doctor`."""
        return ()

    def stats(self) -> ExecutorStats:
        """(optional) Counters; called between steps."""
        return ExecutorStats()
