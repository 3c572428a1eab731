"""Attention backends: selected once while the model is built, with reasons.

T tokens, N heads, K KV heads, H head size, Hv value head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from inferplane.interfaces.batch import StepBatch
from inferplane.interfaces.capabilities import Capabilities
from inferplane.interfaces.device import DeviceRuntime
from inferplane.interfaces.kernels import Reasons
from inferplane.interfaces.shapes import Bucket

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentionBackend", "AttentionMeta", "AttentionSpec"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What one kind of attention layer of the model needs."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    dtype: str
    kv_dtype: str
    scale: float
    block_size: int
    group: int = 0
    causal: bool = True
    cached: bool = True
    """False: attend inside the step only (encoders)."""
    window: int | None = None
    """A token sees itself and the window-1 tokens before it."""
    softcap: float | None = None
    sinks: bool = False
    latent: bool = False
    drafts: int = 0


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """A step's attention input."""

    static: Hashable
    """Part of the compiled program: a new value costs a compile."""
    arrays: Mapping[str, Any]
    """numpy as built; device tensors of the same names in `forward`."""
    host: object = None
    """For `GraphCompiler.before_replay`."""


class AttentionBackend(ABC):
    """One instance per distinct AttentionSpec of the model."""

    layouts: ClassVar[tuple[str, ...]] = ("nhd",)
    """KV layouts it reads, preferred first."""
    block_multiple: ClassVar[int] = 1
    graph: ClassVar[Literal["never", "decode", "always"]] = "never"
    """Which buckets may capture it."""
    encoders: ClassVar[bool] = False
    """It can serve specs that are not cached: others are not asked."""

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        """Called in the worker, once, after `supports` returned ()."""

    @classmethod
    @abstractmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        """All reasons why not; () = supported. Never raises, never touches the device."""

    @abstractmethod
    def build(self, batch: StepBatch, bucket: Bucket | None) -> AttentionMeta:
        """Host work of one step, numpy only; pads to `bucket`."""

    @abstractmethod
    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        kv: object,
        meta: AttentionMeta,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Write k, v to their slots AND attend: q[T,N,H], k[T,K,H], v[T,K,Hv] -> [T,N,Hv].

        `k` and `v` are None for a layer that shares the KV of another one.
        """
