"""Device memory by purpose, where torch's dispatcher shows only what XLA keeps for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inferplane.errors import DeviceError
from inferplane.execution.torch_allocator import StorageRef
from inferplane.interfaces import Allocator, Tag

__all__ = ["XlaAllocator"]

_FIRST_SWEEP = 1024
"""Storages noted before those that died are forgotten."""


class XlaAllocator(Allocator):
    """Charges the tensors that functions called inside `pool` return, for as long as they live."""

    def __init__(self, torch_device: str) -> None:
        self._kind = torch.device(torch_device).type
        self._held: dict[Tag, dict[int, StorageRef]] = {}
        self._pools: list[_Ledger] = []

    def pool(self, tag: Tag) -> AbstractContextManager[None]:
        """Charge what is created inside to `tag`; DeviceError when the device is full."""
        return self._charging(tag)

    def used(self) -> Mapping[Tag, int]:
        """Bytes of the living storages of each purpose."""
        for tag, held in self._held.items():
            self._held[tag] = _living(held)
        return {
            tag: sum(s.nbytes() for one in held.values() if (s := one.storage()) is not None)
            for tag, held in self._held.items()
        }

    @contextmanager
    def _charging(self, tag: Tag) -> Iterator[None]:
        ledger = _Ledger(self._held.setdefault(tag, {}), self._kind, self._pools)
        self._pools.append(ledger)
        try:
            with ledger:
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise DeviceError(f"the device has no memory left for {tag}: {error}") from error
        finally:
            self._pools.remove(ledger)
            self._held[tag] = _living(ledger.held)


class _Ledger(TorchFunctionMode):
    """Notes every storage that is in a function's result and in none of its arguments."""

    def __init__(self, held: dict[int, StorageRef], kind: str, pools: list[_Ledger]) -> None:
        super().__init__()
        self.held = held
        self._kind = kind
        self._pools = pools
        self._limit = _FIRST_SWEEP

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._pools[-1] is self:  # the innermost pool pays
            given = {tensor.untyped_storage()._cdata for tensor in self._tensors((args, kwargs))}
            for tensor in self._tensors(result):
                storage = tensor.untyped_storage()
                if storage.nbytes() and storage._cdata not in given:
                    self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if len(self.held) >= self._limit:  # loading makes and drops thousands
            for key in self.held.keys() - _living(self.held).keys():
                del self.held[key]
            self._limit = 2 * len(self.held) + _FIRST_SWEEP
        self.held[storage._cdata] = StorageRef(storage)

    def _tensors(self, value: object) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            if value.device.type == self._kind:
                yield value
        elif isinstance(value, (tuple, list)):
            for item in value:
                yield from self._tensors(item)
        elif isinstance(value, Mapping):
            yield from self._tensors(list(value.values()))


def _living(held: Mapping[int, StorageRef]) -> dict[int, StorageRef]:
    return {key: one for key, one in held.items() if one.storage() is not None}
