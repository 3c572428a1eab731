"""The model's weights in packed form, each packed once, and what packing makes superfluous."""

from __future__ import annotations

from torch import Tensor

from inferplane.errors import UnsupportedError
from inferplane_cpu.compiler.capture import NotLoweredError
from inferplane_cpu.native.packing import PackedWeight, Packer

__all__ = ["PackedWeights"]


class PackedWeights:
    """Packed twins of dense weights, by identity."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._packed: dict[int, tuple[Tensor, PackedWeight]] = {}

    def pack(self, weight: Tensor) -> PackedWeight:
        """The packed twin of weight[O,I]. Raises NotLoweredError where there is none."""
        known = self._packed.get(id(weight))
        if known is None:
            try:
                known = weight, self._packer.dense(weight)
            except UnsupportedError as reason:
                raise NotLoweredError(str(reason)) from reason
            self._packed[id(weight)] = known
        return known[1]

    def release(self, weights: list[Tensor]) -> int:
        """Give back the memory of weights that only programs read; returns bytes.

        Their tensors stay, without storage: running them op by op again would fail.
        """
        freed = 0
        for weight in weights:
            if id(weight) in self._packed and weight.untyped_storage().size():
                freed += weight.untyped_storage().size()
                weight.untyped_storage().resize_(0)
        return freed
