"""The core's only door to a torch device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from inferplane.interfaces.batch import Array, Pending
from inferplane.interfaces.capabilities import MemoryReport
from inferplane.interfaces.shapes import Bucket

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeviceRuntime", "PromptAttention"]

PromptAttention: TypeAlias = "Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]"
"""(q[T,N,H], k[T,K,H], v[T,K,H], starts i32[S+1], longest, scale) -> [T,N,H]: each prompt attends
causally to itself; `starts` are its token rows."""


class DeviceRuntime(ABC):
    """One device of a worker; the core calls no torch device module itself."""

    torch_device: str
    """What `torch.device()` accepts."""
    devices: int = 1
    """(optional) How many devices of this process share each layer. With more than one, parameters
    are put together on the host and handed to `spread`; the core itself sees one rank."""

    @abstractmethod
    def memory(self) -> MemoryReport:
        """Bytes as the device reports them now."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything enqueued is done. Raises DeviceError."""

    @abstractmethod
    def to_device(self, arrays: Mapping[str, Array], bucket: Bucket | None) -> Mapping[str, Tensor]:
        """The step's single upload; dtypes stay. With a bucket, the same addresses every call."""

    @abstractmethod
    def to_host(self, tensors: Mapping[str, Tensor]) -> Pending[Mapping[str, Array]]:
        """Begin the download of a step's results; `result()` waits."""

    @abstractmethod
    def guard(self) -> AbstractContextManager[None]:
        """Entered around all device work: no gradients (inference_mode where it exists)."""

    def spread(self, weight: Tensor, cut: int | None) -> Tensor:
        """(optional) A loaded parameter from the host, on the devices of this process: dimension
        `cut` may be divided over them (outputs of a layer before its inputs' part of the next, as
        ranks would), None = every device holds all of it."""
        return weight.to(self.torch_device)

    def prompt_attention(self, head_dim: int, dtype: str) -> PromptAttention | None:
        """(optional) The vendor's attention over whole prompts, for backends that leave these to
        it; None = there is none for such heads."""
        return None

    def rehearsal(self, last: bool) -> AbstractContextManager[bool]:
        """(optional) Entered while starting, around steps whose results nobody reads: a device may
        note which kernels they need instead of running them, and make these ready side by side.

        False = it has no use for such steps. With `last` what was noted is ready when it is left.
        """
        return nullcontext(False)

    def close(self) -> None:
        """(optional) Give the device back."""
