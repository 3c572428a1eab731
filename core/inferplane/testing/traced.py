"""Emulations that catch code written for one kind of device: a compiler that specialises on shapes,
and a guard that notes every hidden wait for the device. Needs torch; no accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inferplane.errors import DeviceError
from inferplane.interfaces import Bucket, ExecutorStats, GraphCompiler, StepFunction
from inferplane.testing.traced_device import TracedDevice

__all__ = ["TracedCompiler", "sync_guard"]

_WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::argwhere",
    "aten::where",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
}
"""Operations whose result the host must see before it can go on; inference mode hides the parts
that composite ones are made of, so both are named."""


class TracedCompiler(GraphCompiler):
    """One whole-graph program for each bucket, traced by torch with static shapes.

    What a device that compiles ahead would refuse is an error here as well: a dynamic dimension, a
    branch on a value, a graph break, an input of another shape, dtype or name than the program was
    made for. Programs are counted; those made after `seal` apart.
    """

    def __init__(self) -> None:
        self._device = TracedDevice(aliased=False)

    @property
    def graphs(self) -> int:
        """Programs made so far."""
        return len(self._device.graphs)

    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """Trace `fn` on the first call; later calls must look like `example`."""
        expected = _signature(example)
        run = self._device.compile(lambda inputs: fn(kv, inputs))

        def program(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            if _signature(inputs) != expected:
                wrong = _signature(inputs).items() ^ expected.items()
                raise DeviceError(f"{bucket}: inputs differ from the program's: {sorted(wrong)}")
            outputs: Mapping[str, Tensor] = run(dict(inputs))
            return outputs

        program(kv, example)
        return program

    def seal(self) -> None:
        """Compiling is an event from now on."""
        self._device.seal()

    def stats(self) -> ExecutorStats:
        """Programs made, in all and after `seal`."""
        return ExecutorStats(compiles=self.graphs, compiles_after_start=self._device.after_seal)


@contextmanager
def sync_guard() -> Iterator[list[str]]:
    """The names of operations run inside that wait for the device."""
    with _SyncGuard() as guard:
        yield guard.waits


class _SyncGuard(TorchDispatchMode):
    """Sees every operation; boolean masks as an index are as bad as `nonzero`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
        self.waits: list[str] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """True: programs of torch.compile run under it, instead of being skipped by it."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name()
        if name in _WAITS or (name == "aten::index.Tensor" and _has_mask(args[1])):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def _signature(inputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(x.shape), str(x.dtype)) for name, x in inputs.items()}
