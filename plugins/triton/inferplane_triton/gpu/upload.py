"""Where the arrays of a step lie in one buffer, on both sides of the copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inferplane.interfaces import Array

__all__ = ["InputLayout"]

_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int
    array_dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    tensor: Tensor

    def fits(self, array: Array) -> bool:
        return self.array_dtype == array.dtype and self.shape == array.shape


class InputLayout:
    """One device buffer. Arrays placed when it was made keep their addresses for ever."""

    def __init__(
        self, arrays: Mapping[str, Array], device: torch.device | str, room_bytes: int = 0
    ) -> None:
        """`room_bytes` stay free behind them for what `place` brings."""
        total = sum(_aligned(array.nbytes) for array in arrays.values())
        self.buffer = torch.empty(total + room_bytes, dtype=torch.uint8, device=device)
        self._fixed: dict[str, _Place] = {}
        self._fixed_end = self._put(arrays, 0, self._fixed)
        self._end = self._fixed_end
        self._moving: dict[str, _Place] = {}

    def place(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Find room for what is new or has another shape; returns what did not fit."""
        held = self._fixed
        new = {n: a for n, a in arrays.items() if n not in held or not held[n].fits(a)}
        self._moving.clear()
        self._end = self._fixed_end
        if not new:
            return {}
        if self._fixed_end + sum(_aligned(a.nbytes) for a in new.values()) > len(self.buffer):
            return new
        self._end = self._put(new, self._fixed_end, self._moving)
        return {}

    def pack(self, arrays: Mapping[str, Array], into: Array) -> int:
        """Write what has a place into u8 host memory; returns how many bytes to copy."""
        for name, array in arrays.items():
            place = self._find(name, array)
            if place is not None and array.size:
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                into[place.offset : place.offset + len(flat)] = flat
        return self._end

    def tensors(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """The device side of those of `arrays` that have a place."""
        found = {name: self._find(name, array) for name, array in arrays.items()}
        return {name: place.tensor for name, place in found.items() if place is not None}

    def _find(self, name: str, array: Array) -> _Place | None:
        place = self._moving.get(name) or self._fixed.get(name)
        return place if place is not None and place.fits(array) else None

    def _put(self, arrays: Mapping[str, Array], offset: int, into: dict[str, _Place]) -> int:
        for name, array in arrays.items():
            kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
            flat = self.buffer[offset : offset + array.nbytes].view(kind)
            into[name] = _Place(offset, array.dtype, array.shape, flat.view(array.shape))
            offset += _aligned(array.nbytes)
        return offset


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
