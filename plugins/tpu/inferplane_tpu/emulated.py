"""torch_xla's place taken by the core's emulated device: the same rules, on the processor."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, __version__

from inferplane.interfaces import ExecutorStats, MemoryReport
from inferplane.testing.traced_device import TracedDevice
from inferplane_tpu.compiler import Driver, Program

__all__ = ["EmulatedDriver"]

_KV_BYTES = 256 << 20


class EmulatedDriver(Driver):
    """One graph a shape; writes into KV become outputs, as buffers that a program is given."""

    torch_device = "cpu"

    def __init__(self) -> None:
        self._device = TracedDevice()

    def program(self, fn: Program) -> Program:
        """A dynamic size, a branch on a value or a break in the graph is an error."""
        made: Program = self._device.compile(fn)
        return made

    def donate(self, tensor: Tensor) -> Tensor:
        """The emulated device donates what its graphs write to by itself."""
        return tensor

    def spread(self, tensor: Tensor, cut: int | None) -> Tensor:
        """There is one device."""
        return tensor

    def int8_product(self) -> Callable[[Tensor, Tensor], Tensor]:
        """In integers of 32 bits."""
        return lambda a, b: a.int() @ b.int().t()

    def flush(self) -> None:
        """Nothing is recorded outside of programs."""

    def wait(self) -> None:
        """Nothing is ever under way."""

    def memory(self) -> MemoryReport:
        """A budget, since the host's free memory says nothing of a device's."""
        return MemoryReport(_KV_BYTES, _KV_BYTES, shared_with_host=True)

    def stats(self) -> ExecutorStats:
        """Graphs made."""
        return ExecutorStats(compiles=len(self._device.graphs))

    def fingerprint(self) -> str:
        """Nothing is kept."""
        return f"emulated-torch{__version__}"
