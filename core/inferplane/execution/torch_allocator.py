"""Device memory by purpose: a ledger over whatever allocator torch uses for the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inferplane.errors import DeviceError
from inferplane.interfaces import Allocator, Tag

__all__ = ["StorageRef", "TorchAllocator"]


class TorchAllocator(Allocator):
    """Charges each storage that an operation creates inside `pool`, for as long as it lives.

    `release` shrinks those storages to nothing and `restore` grows them again, so every tensor over
    them stays valid; addresses may change, which is why platforms with captured graphs bring their
    own allocator.
    """

    def __init__(self) -> None:
        self._held: dict[Tag, list[StorageRef]] = {}
        self._pools: list[_Ledger] = []
        self._asleep: dict[Tag, list[tuple[StorageRef, int, Tensor | None]]] = {}

    def pool(self, tag: Tag) -> AbstractContextManager[None]:
        """Charge what is created inside to `tag`; DeviceError when the device is full."""
        return self._charging(tag)

    def used(self) -> Mapping[Tag, int]:
        """Bytes of the living storages of each purpose."""
        used = {}
        for tag, held in self._held.items():
            self._held[tag] = held = [one for one in held if one.storage() is not None]
            used[tag] = sum(storage.nbytes() for storage in _living(held))
        return used

    def release(self, tag: Tag, keep_copy: bool) -> None:
        """Give the device memory of `tag` back, with a host copy of the content if asked."""
        if tag in self._asleep:
            return
        asleep = []
        for held in self._held.get(tag, []):
            if (storage := held.storage()) is not None:
                copy = _bytes_of(storage).to("cpu", copy=True) if keep_copy else None
                asleep.append((held, storage.nbytes(), copy))
                storage.resize_(0)
        self._asleep[tag] = asleep

    def restore(self, tag: Tag) -> None:
        """Undo `release`; zeros stand where no copy was kept."""
        for held, num_bytes, copy in self._asleep.pop(tag, []):
            if (storage := held.storage()) is not None:
                storage.resize_(num_bytes)
                content = _bytes_of(storage)
                content.zero_() if copy is None else content.copy_(copy)

    @contextmanager
    def _charging(self, tag: Tag) -> Iterator[None]:
        ledger = _Ledger(self._held.setdefault(tag, []), self._pools)
        self._pools.append(ledger)
        try:
            with ledger:
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise DeviceError(f"the device has no memory left for {tag}: {error}") from error
        finally:
            self._pools.remove(ledger)


class StorageRef:
    """A storage, without keeping it alive."""

    __slots__ = ("_pointer",)

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._pointer = storage._weak_ref()

    def __del__(self) -> None:
        torch.UntypedStorage._free_weak_ref(self._pointer)  # type: ignore[no-untyped-call]

    def storage(self) -> torch.UntypedStorage | None:
        """The storage, or None once nobody holds it."""
        if torch.UntypedStorage._expired(self._pointer):
            return None
        return torch.UntypedStorage._new_with_weak_ptr(self._pointer)


class _Ledger(TorchDispatchMode):
    """Notes every storage that is in an operation's result and in none of its arguments."""

    def __init__(self, held: list[StorageRef], pools: list[_Ledger]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
        self._held = held
        self._pools = pools
        self._limit = 1024

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler at the first operation, over a second of every start.

        Nothing is compiled while a pool is open.
        """
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in _tensors(result) if t.layout == torch.strided]
        if made and self._pools[-1] is self:  # the innermost pool pays
            given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
            for tensor in made:
                storage = tensor.untyped_storage()
                if storage.nbytes() and storage._cdata not in given:
                    self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if len(self._held) >= self._limit:  # loading makes and drops thousands
            self._held[:] = [one for one in self._held if one.storage() is not None]
            self._limit = 2 * len(self._held) + 1024
        self._held.append(StorageRef(storage))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _living(held: list[StorageRef]) -> Iterator[torch.UntypedStorage]:
    return (storage for one in held if (storage := one.storage()) is not None)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
