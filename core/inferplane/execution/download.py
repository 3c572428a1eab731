"""The download of a step's results that a device has begun and somebody will wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.interfaces import Array

__all__ = ["Download"]


@dataclass(frozen=True, slots=True)
class Download:
    """Copies in host memory, complete once `wait` returns; where there is no `wait`, the tensors
    themselves, which are fetched when they are asked for.
    """

    copies: Mapping[str, Tensor]
    wait: Callable[[], object] | None = None

    def result(self) -> Mapping[str, Array]:
        """Wait, then the arrays. Raises DeviceError."""
        try:
            if self.wait is not None:
                self.wait()
            return {name: tensor.cpu().numpy() for name, tensor in self.copies.items()}
        except RuntimeError as error:
            raise DeviceError(f"a step failed on the device: {error}") from error
