"""Linear layers whose parts one checkpoint tensor holds, one after the other: qkv, gate and up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.layers.build import Builder, LinearLayer
from inferplane.layers.linear import Linear
from inferplane.layers.parameters import hold
from inferplane.layers.quantized import Piece
from inferplane.loading.weights import Assembly, Place

__all__ = ["stacked_linear"]


def stacked_linear(
    build: Builder,
    name: str,
    in_features: int,
    out_features: Sequence[int],
    parts: Sequence[range],
    *,
    bias: bool = False,
    transposed: bool = False,
) -> LinearLayer:
    """The layer of `name`.weight [sum of outputs, I], or [I, sum of outputs] if `transposed`.

    `parts` = the rows of each part that this rank computes. Raises ConfigError for quantised
    weights divided over ranks.
    """
    total = sum(out_features)
    kept = sum(len(part) for part in parts)
    scheme = None if transposed else build.quantizer.scheme(name, in_features, kept)
    if scheme is not None:
        if kept != total:
            raise ConfigError(
                f"layer {name!r} holds several projections in quantised form, which cannot be "
                "divided over ranks: serve it with tensor_parallel 1"
            )
        piece = Piece(name, total, range(total))
        layer: LinearLayer = build.quantizer.linear(
            [piece], in_features, range(in_features), scheme
        )
    else:
        dense = Linear(build.op("linear/1", I=in_features, O=kept))
        weight = hold(build, dense, "weight", (kept, in_features), build.dtype, cut=0)
        shape = (in_features, total) if transposed else (total, in_features)
        place = _rows(weight, out_features, parts, transposed)
        build.weights.expect(f"{name}.weight", shape, place)
        layer = dense
    if bias:
        held = hold(build, layer, "bias", (kept,), build.dtype, cut=0)
        build.weights.expect(f"{name}.bias", (total,), _rows(held, out_features, parts, False))
    return layer


def _rows(
    target: Assembly, out_features: Sequence[int], parts: Sequence[range], transposed: bool
) -> Place:
    """Copies this rank's rows of each part of a tensor, one after the other."""

    def place(source: Tensor) -> None:
        rows = source.t() if transposed else source
        at = begin = 0
        for size, part in zip(out_features, parts, strict=True):
            taken = rows[begin + part.start : begin + part.stop]
            target.tensor()[at : at + len(part)].copy_(taken)
            at += len(part)
            begin += size

    return place
