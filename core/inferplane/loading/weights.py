"""Which checkpoint tensors a model expects, and putting each in its place exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from inferplane.errors import ModelError
from inferplane.loading.heap import Heap

__all__ = ["Assembly", "DummyKind", "HasWeights", "Place", "WeightTable", "dummy_weights"]

Place: TypeAlias = Callable[[Tensor], None]
"""Takes one whole checkpoint tensor of the expected shape."""
DummyKind: TypeAlias = Literal["matrix", "ones", "zeros"]

_NEVER_NEEDED = (
    ".rotary_emb.inv_freq",
    ".masked_bias",
    ".q_scale",
)
"""Endings of tensors that nobody reads: old tables, and scales of queries in 8 bits."""
_DUMMY_PERIOD = 1_000_003
"""Length of the random sequence that dummy weights repeat: a prime, so that no two rows match."""
_DUMMY_SPREAD = 0.02


@dataclass(slots=True)
class _Slot:
    shape: tuple[int, ...]
    place: Place
    dummy: DummyKind
    loaded: bool = False


@dataclass(slots=True)
class _Group:
    """Tensors that mean something only together: a quantised layer's."""

    names: tuple[str, ...]
    collect: Callable[[Mapping[str, Tensor]], None]
    make_up: Callable[[torch.Generator], None]
    in_blocks: bool
    held: dict[str, Tensor] = field(default_factory=dict)
    done: bool = False

    def add(self, name: str, tensor: Tensor) -> None:
        self.held[name] = tensor
        if len(self.held) == len(self.names):
            self.finish()

    def finish(self) -> None:
        self.collect(self.held)
        self.held, self.done = {}, True


class WeightTable:
    """What one model expects of its checkpoint; filled by layers while the model is built."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._groups: list[_Group] = []
        self._group_of: dict[str, _Group] = {}
        self._ignored: list[str] = []
        self._renamed: list[tuple[str, str]] = []
        self._zeros: set[str] = set()
        self._welcome: dict[str, Place] = {}
        self._finish: list[Callable[[], None]] = []

    def expect(
        self, name: str, shape: tuple[int, ...], place: Place, dummy: DummyKind = "matrix"
    ) -> None:
        """Declare one tensor of floating-point numbers."""
        self._claim(name)
        self._slots[name] = _Slot(shape, place, dummy)

    def expect_group(
        self,
        names: Sequence[str],
        collect: Callable[[Mapping[str, Tensor]], None],
        make_up: Callable[[torch.Generator], None],
        in_blocks: bool = False,
    ) -> None:
        """Declare tensors that are handed to `collect` together, in any types.

        `in_blocks`: the loader must not dequantise them. `collect` raises ModelError for those that
        are missing; `make_up` stands in for it when weights are made up.
        """
        group = _Group(tuple(names), collect, make_up, in_blocks)
        self._groups.append(group)
        for name in names:
            self._claim(name)
            self._group_of[name] = group

    def packed(self) -> frozenset[str]:
        """Names whose blocks the loader must leave as they are."""
        return frozenset(name for name, group in self._group_of.items() if group.in_blocks)

    def _claim(self, name: str) -> None:
        if name in self._slots or name in self._group_of:
            raise ModelError(f"two layers of the model claim the tensor {name!r}")

    def ignore(self, prefix: str) -> None:
        """Skip tensors whose name begins so: parts of the checkpoint this model does not use."""
        self._ignored.append(prefix)

    def ignore_zeros(self, name: str) -> None:
        """Skip this tensor if it holds nothing but zeros, and is not expected otherwise."""
        self._zeros.add(name)

    def welcome(self, name: str, place: Place) -> None:
        """Take this tensor, of any shape and type, where the checkpoint has it."""
        self._welcome[name] = place

    def rename(self, prefix: str, instead: str) -> None:
        """Take tensors whose name begins with `prefix` for those beginning with `instead`."""
        self._renamed.append((prefix, instead))

    def when_loaded(self, finish: Callable[[], None]) -> None:
        """Call this after the last tensor, in the order of registration."""
        self._finish.append(finish)

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every declared tensor."""
        return {name: slot.shape for name, slot in self._slots.items()}

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Place every tensor. Raises ModelError for one that is missing, unexpected, repeated,
        misshapen, of the wrong kind of dtype, or not finite.

        `weights` may have a method `origin(name) -> str` that names the file.
        """
        origin, heap = getattr(weights, "origin", None), Heap()
        for stored, tensor in weights:
            heap.passed(tensor.nbytes)
            where = f"{origin(stored)}: " if origin else ""
            name = self._name(stored)
            if name in self._group_of:
                _add(where, self._group_of[name], name, tensor)
                continue
            slot = self._slots.get(name)
            if slot is None:
                if name in self._welcome:
                    _welcome(where, self._welcome[name], tensor)
                elif not self._is_ignored(name, tensor):
                    raise ModelError(f"{where}tensor {name!r} is not part of this architecture")
                continue
            _check(f"{where}tensor {name!r}", slot, tensor)
            slot.place(tensor)
            slot.loaded = True
        self._check_complete(getattr(weights, "source", "the checkpoint"))
        for finish in self._finish:
            finish()
        heap.release()

    def dummies(self, seed: int, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
        """Made-up tensors for every slot: the same for the same seed and name, on any device.

        They are made on `device`: sending them there would take longer than anything else.
        """
        random = torch.Generator().manual_seed(seed)
        normal = (torch.randn(_DUMMY_PERIOD, generator=random) * _DUMMY_SPREAD).to(device)
        for name, slot in self._slots.items():
            yield name, _dummy(slot, normal, name)
        for group in self._groups:
            group.make_up(random)
            group.done = True

    def _name(self, stored: str) -> str:
        for prefix, instead in self._renamed:
            if stored.startswith(prefix):
                return instead + stored.removeprefix(prefix)
        return stored

    def _is_ignored(self, name: str, tensor: Tensor) -> bool:
        if name in self._zeros and not bool(tensor.any()):
            return True
        return name.endswith(_NEVER_NEEDED) or name.startswith(tuple(self._ignored))

    def _check_complete(self, source: str) -> None:
        for group in self._groups:
            if group.held:
                group.finish()  # which names what is missing, or does without
        missing = [name for name, slot in self._slots.items() if not slot.loaded]
        missing += [group.names[0] for group in self._groups if not group.done]
        if missing:
            slot = self._slots.get(missing[0])
            shape = list(slot.shape) if slot else "of a quantised layer"
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ModelError(f"{source}: tensor {missing[0]!r} {shape} is missing{more}")


class Assembly:
    """One parameter put together from pieces, allocated when the first of them arrives.

    Until then `owner.attribute` is a meta tensor of the right shape: a model can be built, and its
    size known, without memory.
    """

    def __init__(
        self,
        owner: object,
        attribute: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.owner = owner
        self.attribute = attribute
        self.shape = shape
        self.dtype = dtype
        self.device = device
        setattr(owner, attribute, torch.empty(shape, dtype=dtype, device="meta"))

    def tensor(self) -> Tensor:
        """The parameter in memory."""
        held: Tensor = getattr(self.owner, self.attribute)
        if held.is_meta:
            held = torch.empty(self.shape, dtype=self.dtype, device=self.device)
            setattr(self.owner, self.attribute, held)
        return held

    def piece(self, at: tuple[slice, ...], of: tuple[slice, ...], add: float = 0.0) -> Place:
        """Copy the part `of` a checkpoint tensor to the part `at` of the parameter, plus `add`."""

        def place(source: Tensor) -> None:
            part = source[of]
            self.tensor()[at].copy_(part.float() + add if add else part)

        return place


class HasWeights(Protocol):
    """A model whose expected tensors are known."""

    weights: WeightTable


def dummy_weights(
    model: HasWeights, seed: int, device: str = "cpu"
) -> Iterator[tuple[str, Tensor]]:
    """Made-up weights for `model.load`: deterministic for each seed, made on `device`."""
    return model.weights.dummies(seed, device)


def _add(where: str, group: _Group, name: str, tensor: Tensor) -> None:
    if group.done or name in group.held:
        raise ModelError(f"{where}tensor {name!r} occurs twice")
    try:
        group.add(name, tensor)
    except ModelError as error:
        raise ModelError(f"{where}{error}") from None


def _welcome(where: str, place: Place, tensor: Tensor) -> None:
    try:
        place(tensor)
    except ModelError as error:
        raise ModelError(f"{where}{error}") from None


def _check(where: str, slot: _Slot, tensor: Tensor) -> None:
    if slot.loaded:
        raise ModelError(f"{where} occurs twice")
    if tuple(tensor.shape) != slot.shape:
        raise ModelError(
            f"{where} has shape {list(tensor.shape)}, the configuration says {list(slot.shape)}"
        )
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise ModelError(
            f"{where} has dtype {tensor.dtype}, needs float32, float16 or bfloat16 (a quantised "
            "checkpoint must say so in quantization_config)"
        )
    low, high = torch.aminmax(tensor) if tensor.numel() else (tensor.new_zeros(()),) * 2
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise ModelError(f"{where} holds values that are not finite (NaN or infinity)")


def _dummy(slot: _Slot, normal: Tensor, name: str) -> Tensor:
    if slot.dummy == "ones":
        return torch.ones(slot.shape, device=normal.device)
    if slot.dummy == "zeros":
        return torch.zeros(slot.shape, device=normal.device)
    count = 1
    for size in slot.shape:
        count *= size
    start = sum(place * byte for place, byte in enumerate(name.encode(), 1)) % _DUMMY_PERIOD
    repeats = -(-(start + count) // _DUMMY_PERIOD)
    return normal.repeat(repeats)[start : start + count].view(slot.shape)
