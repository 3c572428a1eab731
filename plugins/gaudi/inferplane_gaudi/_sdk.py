"""The Gaudi software stack: told without importing it, and opened where its environment is set.

The only module of this plugin that may ever import `habana_frameworks`: the import reads its
environment once, so it belongs into a worker whose environment is already in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from inferplane.errors import DeviceError
from inferplane.probing import Requirement, first_problem, installed_versions

__all__ = ["Stack", "open_stack", "problem", "versions"]

REQUIRED = (
    Requirement(
        "habana-torch-plugin",
        "1.22",
        "habana_frameworks",
        "the vendor's own package index or container image",
    ),
    Requirement("torch", "2.7", "torch", "the same place as habana-torch-plugin: a fork of torch"),
)


def problem() -> str:
    """Why the stack cannot be used, with the next step; "" = it looks right."""
    return first_problem(REQUIRED)


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return installed_versions(REQUIRED)


@dataclass(frozen=True, slots=True)
class Stack:
    """The opened SDK, and torch's names for what it registered."""

    hpu: Any
    """`habana_frameworks.torch.hpu`"""
    torch_device: str = "hpu"
    """Without a number: a process has one device."""
    compile_backend: str = "hpu_backend"
    collectives: str = "hccl"

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device now."""
        free, total = self.hpu.mem_get_info()
        return int(free), int(total)

    def synchronize(self) -> None:
        """Wait for everything enqueued. Raises RuntimeError."""
        self.hpu.synchronize()

    def mark(self) -> Any:
        """An event that is over when everything enqueued so far is."""
        event = self.hpu.Event()
        event.record()
        return event

    def host_fallbacks(self) -> int:
        """Operations so far that the device does not have and the host ran instead."""
        metric = import_module("habana_frameworks.torch.hpu.metrics").metric_global("cpu_fallback")
        return int(dict(metric.stats()).get("TotalNumber", 0))

    def fp8_product(self) -> Callable[..., Any]:
        """(a, a transposed, b, b transposed, out, dtype, scale a, scale b, bias, add to out)."""
        operation: Callable[..., Any] = import_module("torch").ops.hpu.fp8_gemm_v2
        return operation

    def register_collectives(self) -> None:
        """Make torch.distributed know the vendor's library."""
        import_module("habana_frameworks.torch.distributed.hccl")


def open_stack() -> Stack:
    """Import the SDK, which takes the device. Raises DeviceError saying what failed."""
    try:
        import_module("habana_frameworks.torch.core")  # registers device and compiler with torch
        hpu = import_module("habana_frameworks.torch.hpu")
    except Exception as error:  # its libraries and its driver raise their own kinds
        raise DeviceError(
            f"habana_frameworks cannot be opened: {type(error).__name__}: {error}; "
            f"{problem() or 'see whether hl-smi lists a free device'}"
        ) from error
    return Stack(hpu)
