"""Which checkpoint tensors a model expects, and putting each in its place exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from inferplane.errors import ModelError

__all__ = ["Assembly", "DummyKind", "HasWeights", "Place", "WeightTable", "dummy_weights"]

Place: TypeAlias = Callable[[Tensor], None]
"""Takes one whole checkpoint tensor of the expected shape."""
DummyKind: TypeAlias = Literal["matrix", "ones", "zeros", "packed"]

_NEVER_NEEDED = (".rotary_emb.inv_freq", ".masked_bias", ".rotary_emb.cos_cached")
"""Endings of tensors that old checkpoints carry and nobody reads."""
_DUMMY_PERIOD = 1_000_003
"""Length of the random sequence that dummy weights repeat: a prime, so that no two rows match."""
_DUMMY_SPREAD = 0.02


@dataclass(slots=True)
class _Slot:
    shape: tuple[int, ...]
    place: Place
    packed: bool
    dummy: DummyKind
    optional: bool
    loaded: bool = False


class WeightTable:
    """What one model expects of its checkpoint; filled by layers while the model is built."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._ignored: list[str] = []
        self._finish: list[Callable[[], None]] = []

    def expect(
        self,
        name: str,
        shape: tuple[int, ...],
        place: Place,
        *,
        packed: bool = False,
        dummy: DummyKind = "matrix",
        optional: bool = False,
    ) -> None:
        """Declare one tensor. `packed` ones hold codes, the others must be floating point."""
        if name in self._slots:
            raise ModelError(f"two layers of the model claim the tensor {name!r}")
        self._slots[name] = _Slot(shape, place, packed, dummy, optional)

    def ignore(self, prefix: str) -> None:
        """Skip tensors whose name begins so: parts of the checkpoint this model does not use."""
        self._ignored.append(prefix)

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
        origin = getattr(weights, "origin", None)
        for name, tensor in weights:
            slot = self._slots.get(name)
            where = f"{origin(name)}: " if origin else ""
            if slot is None:
                if not self._is_ignored(name):
                    raise ModelError(f"{where}tensor {name!r} is not part of this architecture")
                continue
            _check(f"{where}tensor {name!r}", slot, tensor)
            slot.place(tensor)
            slot.loaded = True
        self._check_complete(getattr(weights, "source", "the checkpoint"))
        for finish in self._finish:
            finish()

    def dummies(self, seed: int, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
        """Made-up tensors for every slot: the same for the same seed and name, on any device.

        They are made on `device`: sending them there would take longer than anything else.
        """
        random = torch.Generator().manual_seed(seed)
        normal = (torch.randn(_DUMMY_PERIOD, generator=random) * _DUMMY_SPREAD).to(device)
        for name, slot in self._slots.items():
            if not slot.optional:
                yield name, _dummy(slot, normal, name)

    def _is_ignored(self, name: str) -> bool:
        return name.endswith(_NEVER_NEEDED) or name.startswith(tuple(self._ignored))

    def _check_complete(self, source: str) -> None:
        missing = [n for n, slot in self._slots.items() if not (slot.loaded or slot.optional)]
        if missing:
            shape = list(self._slots[missing[0]].shape)
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


def _check(where: str, slot: _Slot, tensor: Tensor) -> None:
    if slot.loaded:
        raise ModelError(f"{where} occurs twice")
    if tuple(tensor.shape) != slot.shape:
        raise ModelError(
            f"{where} has shape {list(tensor.shape)}, the configuration says {list(slot.shape)}"
        )
    if slot.packed:
        return
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
