"""Linear layers over quantised weights: which kernel serves them, and how they are loaded.

A format says what the weights mean, a kernel multiplies them; this file brings the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    CanonicalWeight,
    LinearSite,
    QuantFormat,
    QuantKernel,
    QuantScheme,
)
from inferplane.layers.kernel_choice import choose_kernel
from inferplane.layers.quantized_stack import Pieces, QuantizedStack, StackLoading
from inferplane.quantization.canonical import check_weight, num_groups, slice_weight
from inferplane.quantization.reference import ReferenceKernel

if TYPE_CHECKING:
    from inferplane.layers.build import Builder

__all__ = ["JoinedLinear", "Piece", "QuantizedLinear", "Quantizer"]

_SPREAD = 0.02
_MADE_UP_PERIOD = 1_000_003
"""A prime: no two rows of a made-up matrix are alike."""


class QuantizedLinear:
    """x[T,I] -> [T,O] by one kernel over what it repacked."""

    __slots__ = ("apply", "bias", "packed")

    packed: Mapping[str, Tensor]
    bias: Tensor | None

    def __init__(self, apply: Callable[..., Tensor]) -> None:
        self.apply = apply
        self.bias = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.packed, self.bias)

    def take(self, packed: Mapping[str, Tensor]) -> None:
        """What its kernel laid down."""
        self.packed = dict(packed)


class JoinedLinear:
    """Several layers with the same input, whose weights are of different kinds."""

    __slots__ = ("layers",)

    def __init__(self, layers: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.layers = tuple(layers)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], -1)


@dataclass(frozen=True, slots=True)
class Piece:
    """One checkpoint layer's share in a linear layer of this rank."""

    name: str
    out_features: int
    """Of the whole layer, over all ranks."""
    rows: range
    """Outputs that this rank computes."""


class Quantizer:
    """Decides for each layer of one model how its weights are kept, and loads them so."""

    def __init__(self, build: Builder) -> None:
        """Raises ConfigError for a format that nobody offers or a configuration it refuses."""
        self._build = build
        self._format = _open_format(build)
        self._chosen: dict[tuple[QuantScheme, LinearSite], type[QuantKernel] | None] = {}

    def scheme(self, layer: str, in_features: int, out_features: int) -> QuantScheme | None:
        """What the layer's weights mean; None = it is kept in high precision."""
        if self._format is None:
            return None
        scheme = self._format.scheme(layer)
        if scheme is None:
            return None
        kernel = self._kernel(scheme, self._site(in_features, out_features))
        return None if kernel is None and self._format.loads_dense else scheme

    def packed_scheme(self, layer: str, in_features: int, out_features: int) -> QuantScheme | None:
        """The scheme of a layer that a kernel of the device serves at that size, or None."""
        scheme = None if self._format is None else self._format.scheme(layer)
        if scheme is None:
            return None
        kernel = self._kernel(scheme, self._site(in_features, out_features))
        return None if kernel is None else scheme

    def stored_scheme(self, layer: str) -> QuantScheme | None:
        """The scheme in which the checkpoint holds a layer that is dequantised in any case.

        None where the loader hands over high precision.
        """
        found = self._format
        if found is None or found.loads_dense or self._is_made_from_dense(layer):
            return None
        return found.scheme(layer)

    def count_fallback(self, name: str) -> None:
        """One more place of the model runs without a kernel for its quantised weights.

        Raises ConfigError where the user forbade it.
        """
        binder = self._build.binder
        if binder.config.fallback == "error":
            raise ConfigError(
                f"no kernel for {name}, and fallback=error forbids to dequantise: allow it with "
                "fallback=reference"
            )
        binder.fallbacks[name] = binder.fallbacks.get(name, 0) + 1

    def tied_scheme(self, layer: str, in_features: int, out_features: int) -> QuantScheme | None:
        """The scheme of an embedding that the checkpoint itself holds in quantised form."""
        if self._format is None or not self._format.loads_dense:
            return None
        return self.scheme(layer, in_features, out_features)

    def online_scheme(self, layer: str, in_features: int, out_features: int) -> QuantScheme | None:
        """The scheme of a layer that the format makes from dense weights."""
        if not self._is_made_from_dense(layer):
            return None
        return self.scheme(layer, in_features, out_features)

    def _is_made_from_dense(self, layer: str) -> bool:
        found = self._format
        if found is None or found.loads_dense or found.scheme(layer) is None:
            return False
        return found.tensors(layer) == (f"{layer}.weight",)

    def linear(
        self, pieces: Sequence[Piece], in_features: int, columns: range, scheme: QuantScheme
    ) -> QuantizedLinear:
        """One layer of all pieces, over the inputs in `columns`; it is complete after loading."""
        num_rows = sum(len(piece.rows) for piece in pieces)
        site = self._site(len(columns), num_rows)
        kernel = self._make(scheme, site)
        layer = QuantizedLinear(kernel.apply)
        loading = Pieces(len(pieces), lambda whole: layer.take(kernel.repack(whole)))
        for place, piece in enumerate(pieces):
            self._declare(piece, in_features, columns, scheme, partial(loading.add, place))
        return layer

    def has_stacks(
        self, scheme: QuantScheme, in_features: int, out_features: int, experts: int
    ) -> bool:
        """Whether a kernel of the device multiplies so many matrices of that kind at once."""
        site = replace(self._site(in_features, out_features), num_experts=experts)
        return not scheme.reordered and self._kernel(scheme, site) is not None

    def stack(
        self,
        experts: Sequence[Sequence[Piece]],
        in_features: int,
        columns: range,
        scheme: QuantScheme,
    ) -> QuantizedStack:
        """The pieces of each expert as one stack, over the inputs in `columns`; `has_stacks`."""
        rows = sum(len(piece.rows) for piece in experts[0])
        site = replace(self._site(len(columns), rows), num_experts=len(experts))
        kind = self._kernel(scheme, site)
        assert kind is not None and self._build.runtime is not None
        kernel = kind(scheme, site, self._build.runtime)
        stack = QuantizedStack(kernel.apply_each)
        loading = StackLoading(stack, kernel, len(experts))
        for expert, pieces in enumerate(experts):
            parts = loading.expert(expert, len(pieces))
            for place, piece in enumerate(pieces):
                self._declare(piece, in_features, columns, scheme, partial(parts.add, place))
        return stack

    def shared(
        self, scheme: QuantScheme, in_features: int, rows: range
    ) -> tuple[QuantizedLinear, Callable[[CanonicalWeight], None]]:
        """A layer over the rows of somebody else's weight, and what to call with that weight."""
        kernel = self._make(scheme, self._site(in_features, len(rows)))
        layer = QuantizedLinear(kernel.apply)
        loading = Pieces(1, lambda whole: layer.take(kernel.repack(whole)))
        taken = slice(rows.start, rows.stop)
        return layer, lambda weight: loading.add(
            0, slice_weight(weight, taken, slice(None), scheme)
        )

    def from_dense(
        self, layer: str, weight: Callable[[], Tensor], rows: range, scheme: QuantScheme
    ) -> QuantizedLinear:
        """A layer made from the dense `weight()` [O,I] once everything is loaded."""
        found = self._format
        assert found is not None
        quantized, use = self.shared(scheme, self._build.config.hidden_size, rows)

        def finish() -> None:
            use(found.canonical(layer, {f"{layer}.weight": weight()}))

        self._build.weights.when_loaded(finish)
        return quantized

    def stored(
        self,
        layer: str,
        shape: tuple[int, int],
        scheme: QuantScheme,
        use: Callable[[CanonicalWeight], None],
    ) -> None:
        """Hand the layer's unpacked weight to `use`, for what is more than a multiplication."""
        build, found = self._build, self._format
        assert found is not None

        def collect(tensors: Mapping[str, Tensor]) -> None:
            use(self._canonical(found, layer, tensors, scheme, shape))

        def make_up(random: torch.Generator) -> None:
            use(_made_up(scheme, shape, random, build.device))

        # Some tools write a bias of zeros for every layer.
        build.weights.ignore_zeros(f"{layer}.bias")
        build.weights.expect_group(found.tensors(layer), collect, make_up, found.loads_dense)

    def _declare(
        self,
        piece: Piece,
        in_features: int,
        columns: range,
        scheme: QuantScheme,
        add: Callable[[CanonicalWeight], None],
    ) -> None:
        whole = columns == range(in_features)
        if scheme.reordered and not whole:
            raise ConfigError(
                f"layer {piece.name!r} has reordered inputs (desc_act), which cannot be divided "
                "over ranks: serve it with tensor_parallel 1"
            )
        if not whole and scheme.group > 0 and len(columns) % scheme.group:
            raise ConfigError(
                f"layer {piece.name!r}: a rank's {len(columns)} inputs are no whole groups of "
                f"{scheme.group}: choose a smaller tensor_parallel"
            )
        taken = slice(None) if whole else slice(columns.start, columns.stop)
        rows = slice(piece.rows.start, piece.rows.stop)

        def use(weight: CanonicalWeight) -> None:
            add(slice_weight(weight, rows, taken, scheme))

        self.stored(piece.name, (piece.out_features, in_features), scheme, use)

    def _canonical(
        self,
        found: QuantFormat,
        layer: str,
        tensors: Mapping[str, Tensor],
        scheme: QuantScheme,
        shape: tuple[int, int],
    ) -> CanonicalWeight:
        """Unpacked on the device: a processor core would take minutes for a large model."""
        near = {name: tensor.to(self._build.device) for name, tensor in tensors.items()}
        weight = found.canonical(layer, near)
        check_weight(layer, weight, scheme, *shape)
        return weight

    def _site(self, in_features: int, out_features: int) -> LinearSite:
        return LinearSite(in_features, out_features, self._build.dtype_name)

    def _make(self, scheme: QuantScheme, site: LinearSite) -> QuantKernel:
        kind = self._kernel(scheme, site)
        if kind is not None:
            assert self._build.runtime is not None
            return kind(scheme, site, self._build.runtime)
        self.count_fallback("quantized_linear")
        return ReferenceKernel(scheme, site)

    def _kernel(self, scheme: QuantScheme, site: LinearSite) -> type[QuantKernel] | None:
        key = (scheme, site)
        if key not in self._chosen:
            loads_dense = self._format is not None and self._format.loads_dense
            self._chosen[key] = choose_kernel(self._build, scheme, site, loads_dense)
        return self._chosen[key]


def _open_format(build: Builder) -> QuantFormat | None:
    config = build.config.quantization
    if not config:
        return None
    method = config.get("quant_method")
    if not isinstance(method, str):
        raise ConfigError(f"quantization_config: quant_method is {method!r}, needs a name")
    binder = build.binder
    entry = binder.catalogue["quantization_formats"].get(method, binder.labels)
    found: QuantFormat = entry.load()(config)
    return found


def _made_up(
    scheme: QuantScheme,
    shape: tuple[int, int],
    random: torch.Generator,
    device: str,
) -> CanonicalWeight:
    """A weight that no file holds, of about the size that trained ones have.

    A short random sequence is repeated on the device: to make all of a large model's codes here
    would take minutes.
    """
    groups = num_groups(scheme, shape[1])
    order = torch.arange(shape[1], dtype=torch.int32, device=device) if scheme.reordered else None
    is_static = scheme.activation_scale == "static" and scheme.activation
    count = shape[0] * shape[1]
    period = min(count, _MADE_UP_PERIOD)
    if scheme.weight.startswith("fp8"):
        kind = torch.float8_e4m3fn if scheme.weight == "fp8_e4m3" else torch.float8_e5m2
        codes = torch.randn(period, generator=random).to(kind)
        size = 1.0
    else:
        low, high = (-8, 8) if scheme.weight == "int4" else (-128, 128)
        codes = torch.randint(low, high, (period,), generator=random, dtype=torch.int8)
        size = high / 2
    repeats = -(-count // period)
    values = codes.view(torch.uint8).to(device).repeat(repeats)[:count].view(codes.dtype)
    scales = torch.full((shape[0], groups), _SPREAD / size, device=device)
    return CanonicalWeight(
        values=values.view(shape),
        scales=scales,
        offsets=torch.zeros_like(scales) if scheme.offset else None,
        order=order,
        input_scale=torch.full((1,), _SPREAD, device=device) if is_static else None,
    )
