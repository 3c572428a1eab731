"""What a model is built from: layers with their ops bound and their weights declared.

Knows nothing of any architecture, nor of the step a layer will run in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import (
    CanonicalWeight,
    Communicator,
    DeviceRuntime,
    LayerKV,
    QuantScheme,
)
from inferplane.layers.embedding import Embedding, Logits, PackedLogits, PackedTable
from inferplane.layers.linear import Linear, ReducedLinear
from inferplane.layers.norm import LayerNorm, RmsNorm
from inferplane.layers.parameters import hold
from inferplane.layers.quantized import JoinedLinear, Piece, QuantizedLinear, Quantizer
from inferplane.layers.rotary import Rotary
from inferplane.loading.weights import WeightTable
from inferplane.model_config import ModelConfig, RopeConfig
from inferplane.ops.bind import Binder
from inferplane.quantization.kv_scales import KVScales
from inferplane.quantization.reference import dequantize_into

__all__ = ["AttentionSite", "Builder", "LinearLayer", "Split"]

Split = Literal["none", "outputs", "inputs"]
"""How a linear layer is cut over ranks; with "inputs" the partial results are added up."""
LinearLayer = Callable[[Tensor], Tensor]
_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One attention layer of this rank: what AttentionSpec needs but dtype, block and group."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    cached: bool = True
    """False: a token sees its whole text, in both directions, and nothing is kept."""
    k_largest: tuple[float, ...] = ()
    """As in LayerKV, known once the weights are loaded."""
    v_largest: tuple[float, ...] = ()
    reads: str | None = None
    """The layer whose KV it attends to at audio positions, having none of its own."""

    def kv(self, dtype: str) -> LayerKV:
        """Its KV cache, with elements of `dtype`."""
        return LayerKV(
            self.name,
            self.num_kv_heads,
            self.head_dim,
            self.head_dim_v,
            dtype,
            window=self.window,
            k_largest=self.k_largest,
            v_largest=self.v_largest,
        )


class Builder:
    """Makes the layers of one model on one rank."""

    def __init__(
        self,
        config: ModelConfig,
        binder: Binder,
        dtype: torch.dtype,
        device: str,
        rank: int = 0,
        world_size: int = 1,
        communicator: Communicator | None = None,
        runtime: DeviceRuntime | None = None,
    ) -> None:
        """`runtime` is needed for quantised checkpoints only: their kernels ask it for memory."""
        if world_size > 1 and communicator is None:
            raise ConfigError(f"tensor parallelism over {world_size} ranks needs a communicator")
        self.config = config
        self.binder = binder
        self.dtype = dtype
        self.device = device
        self.rank = rank
        self.world_size = world_size
        self.communicator = communicator
        self.runtime = runtime
        self.weights = WeightTable()
        self.attention_sites: list[AttentionSite] = []
        self._kv_scales = KVScales(config.quantization, binder.config.kv_dtype)
        self._kv_heads: dict[str, range] = {}
        self.quantizer = Quantizer(self)

    @property
    def dtype_name(self) -> str:
        """ "float32", "bfloat16" or "float16"."""
        return str(self.dtype).removeprefix("torch.")

    def op(self, name: str, **dims: int) -> Callable[..., Any]:
        """The kernel for one place of the model, as a plain callable."""
        return self.binder.op(name, self.dtype_name, **dims)

    def fusion(self, name: str, **dims: int) -> Callable[..., Any] | None:
        """A kernel for an optional op, or None: then call the ops that it fuses."""
        return self.binder.fusion(name, self.dtype_name, **dims)

    def part(self, size: int, what: str) -> range:
        """This rank's share of `size` rows. Raises ConfigError when it does not divide evenly."""
        if size % self.world_size:
            raise ConfigError(
                f"{what} is {size}, which does not divide over {self.world_size} ranks: "
                "choose another tensor_parallel"
            )
        share = size // self.world_size
        return range(self.rank * share, (self.rank + 1) * share)

    def linear(
        self,
        name: str,
        in_features: int,
        out_features: int,
        bias: bool = False,
        split: Split = "none",
    ) -> LinearLayer:
        """The layer of checkpoint tensors `name`.weight [O,I] and, with `bias`, `name`.bias [O].

        A quantised checkpoint may hold others in their place; then the format says which.
        """
        if split != "inputs":
            parts = [self.part(out_features, name)] if split == "outputs" else None
            return self.merged_linear((name,), in_features, (out_features,), bias, parts)
        columns = self.part(in_features, name)
        piece = Piece(name, out_features, range(out_features))
        scheme = self.quantizer.scheme(name, len(columns), out_features)
        layer: Linear | QuantizedLinear
        if scheme is not None:
            layer = self.quantizer.linear([piece], in_features, columns, scheme)
        else:
            layer = self._dense([piece], in_features, columns, cut=1)
        reduced = ReducedLinear(layer, self.communicator) if self.communicator else None
        if bias:
            self._bias(reduced or layer, [piece], None)
        return reduced or layer

    def merged_linear(
        self,
        names: Sequence[str],
        in_features: int,
        out_features: Sequence[int],
        bias: bool = False,
        parts: Sequence[range] | None = None,
    ) -> LinearLayer:
        """One multiplication for several layers with the same input: x[T,I] -> [T, all outputs].

        `parts` = the output rows of each that this rank computes; None = all. Layers whose weights
        are of different kinds stay apart, their outputs are joined.
        """
        cut = None if parts is None else 0
        parts = [range(size) for size in out_features] if parts is None else parts
        layers: list[LinearLayer] = []
        for scheme, pieces in self._runs(
            in_features, [Piece(*one) for one in zip(names, out_features, parts, strict=True)]
        ):
            columns = range(in_features)
            layer: Linear | QuantizedLinear
            if scheme is None:
                layer = self._dense(pieces, in_features, columns, cut)
            else:
                layer = self.quantizer.linear(pieces, in_features, columns, scheme)
            if bias:
                self._bias(layer, pieces, cut)
            layers.append(layer)
        return layers[0] if len(layers) == 1 else JoinedLinear(layers)

    def _runs(
        self, in_features: int, pieces: Sequence[Piece]
    ) -> list[tuple[QuantScheme | None, list[Piece]]]:
        """Neighbours whose weights mean the same; reordered inputs differ from layer to layer."""
        runs: list[tuple[QuantScheme | None, list[Piece]]] = []
        for piece in pieces:
            scheme = self.quantizer.scheme(piece.name, in_features, len(piece.rows))
            joins = scheme is None or not scheme.reordered
            if runs and runs[-1][0] == scheme and joins:
                runs[-1][1].append(piece)
            else:
                runs.append((scheme, [piece]))
        return runs

    def _dense(
        self, pieces: Sequence[Piece], in_features: int, columns: range, cut: int | None
    ) -> Linear:
        total = sum(len(piece.rows) for piece in pieces)
        layer = Linear(self.op("linear/1", I=len(columns), O=total))
        weight = hold(self, layer, "weight", (total, len(columns)), self.dtype, cut)
        at = 0
        for piece in pieces:
            end = at + len(piece.rows)
            place = weight.piece((slice(at, end),), (_as_slice(piece.rows), _as_slice(columns)))
            self.weights.expect(f"{piece.name}.weight", (piece.out_features, in_features), place)
            at = end
        return layer

    def norm(self, name: str, size: int, offset: float = 0.0) -> RmsNorm:
        """The RMS norm of tensor `name`.weight [size]; `offset` is added to its weights."""
        layer = RmsNorm(
            self.op("rms_norm/1", H=size), self.op("add_rms_norm/1", H=size), self.config.norm_eps
        )
        weight = hold(self, layer, "weight", (size,), torch.float32)
        self.weights.expect(
            f"{name}.weight",
            (size,),
            weight.piece((_ALL,), (_ALL,), add=offset),
            dummy="zeros" if offset else "ones",
        )
        return layer

    def layer_norm(self, name: str, size: int) -> LayerNorm:
        """The centred norm of tensors `name`.weight and `name`.bias [size]."""
        layer = LayerNorm(self.op("layer_norm/1", H=size), self.config.norm_eps)
        for attribute, dummy in (("weight", "ones"), ("bias", "zeros")):
            held = hold(self, layer, attribute, (size,), torch.float32)
            self.weights.expect(
                f"{name}.{attribute}",
                (size,),
                held.piece((_ALL,), (_ALL,)),
                dummy="ones" if dummy == "ones" else "zeros",
            )
        return layer

    def embedding(self, name: str, rows: int, size: int, scale: float = 1.0) -> Embedding:
        """The lookup of tensor `name`.weight [rows,size]; every rank holds all of it."""
        layer = Embedding(self.op("embedding/1", V=rows, D=size), scale, self.dtype)
        weight = hold(self, layer, "weight", (rows, size), self.dtype, cut=0)
        scheme = (
            self.quantizer.tied_scheme(name, size, rows) if self.config.tie_embeddings else None
        )
        if scheme is None:
            self.weights.expect(f"{name}.weight", (rows, size), weight.piece((_ALL,), (_ALL,)))
            return layer
        table = layer.packed = PackedTable(scheme)
        table.users.append(lambda packed: dequantize_into(weight.tensor(), packed, scheme))

        def use(packed: CanonicalWeight) -> None:
            for user in table.users:
                user(packed)

        self.quantizer.stored(name, (rows, size), scheme, use)
        return layer

    def logits(self, name: str, tied: Embedding | None = None) -> Logits | PackedLogits:
        """The output layer of tensor `name`.weight [V,D], or of the embedding it is tied to."""
        config = self.config
        rows = range(config.vocab_size)
        splits = self.world_size > 1 and config.vocab_size % self.world_size == 0
        if splits:
            rows = self.part(config.vocab_size, "vocab_size")
        communicator = self.communicator if splits else None
        if tied is not None:
            self.weights.ignore(f"{name}.")
        packed = self._packed_output(name, tied, rows)
        if packed is not None:
            return PackedLogits(packed, config.logits_softcap, communicator)
        op = self.op("logits/1", D=config.hidden_size, V=len(rows))
        layer = Logits(op, config.logits_softcap, communicator)
        shape = (len(rows), config.hidden_size)
        weight = None if tied else hold(self, layer, "weight", shape, self.dtype, cut=0)
        if weight is not None:
            full = (config.vocab_size, config.hidden_size)
            self.weights.expect(f"{name}.weight", full, weight.piece((_ALL,), (_as_slice(rows),)))
            return layer

        assert tied is not None

        def share() -> None:
            layer.weight = tied.weight[_as_slice(rows)] if splits else tied.weight

        self.weights.when_loaded(share)
        return layer

    def _packed_output(
        self, name: str, tied: Embedding | None, rows: range
    ) -> QuantizedLinear | None:
        """The output layer over quantised weights, or None: then it is dense."""
        size, vocab_size = self.config.hidden_size, self.config.vocab_size
        if tied is None:
            scheme = self.quantizer.scheme(name, size, len(rows))
            if scheme is None:
                return None
            piece = Piece(name, vocab_size, rows)
            return self.quantizer.linear([piece], size, range(size), scheme)
        if tied.packed is not None:
            layer, use = self.quantizer.shared(tied.packed.scheme, size, rows)
            tied.packed.users.append(use)
            return layer
        scheme = self.quantizer.online_scheme(name, size, len(rows))
        if scheme is None:
            return None
        return self.quantizer.from_dense(name, lambda: tied.weight, rows, scheme)

    def rotary(self, rope: RopeConfig, head_dim: int) -> Rotary:
        """Tables for every position a request may reach."""
        positions = max(self.binder.config.max_model_len, 1)
        return Rotary(rope, head_dim, positions, self.device)

    def attention(
        self,
        name: str,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: bool = False,
    ) -> None:
        """Announce an attention layer of this rank; `context.attend(name, …)` will call it."""
        self.announce(
            AttentionSite(
                name, num_heads, num_kv_heads, head_dim, head_dim, scale, window, softcap, sinks
            )
        )

    def announce(self, site: AttentionSite, kv_heads: range | None = None) -> None:
        """The same for a site of any kind; `kv_heads` = the model's that this rank has, if not all.

        The checkpoint may bring scales for its KV cache.
        """
        name = site.name
        if any(held.name == name for held in self.attention_sites):
            raise ModelError(f"two attention layers are called {name!r}")
        self.attention_sites.append(site)
        self._kv_heads[name] = kv_heads or range(site.num_kv_heads)
        total = site.num_kv_heads if kv_heads is None else self.config.num_kv_heads
        for tensor in self._kv_scales.names(name) if site.cached else ():
            self.weights.welcome(tensor, partial(self._kv_scales.put, name, tensor, total))
        for tensor in self._kv_scales.offset_names(name) if site.cached else ():
            self.weights.ignore_zeros(tensor)

    def loaded_sites(self) -> tuple[AttentionSite, ...]:
        """The attention layers with what the checkpoint says about their KV cache."""
        scales, heads = self._kv_scales, self._kv_heads
        return tuple(
            replace(
                site,
                k_largest=scales.largest(site.name, "keys", heads[site.name]),
                v_largest=scales.largest(site.name, "values", heads[site.name]),
            )
            for site in self.attention_sites
        )

    def _bias(
        self,
        layer: Linear | QuantizedLinear | ReducedLinear,
        pieces: Sequence[Piece],
        cut: int | None,
    ) -> None:
        total = sum(len(piece.rows) for piece in pieces)
        held = hold(self, layer, "bias", (total,), self.dtype, cut)
        at = 0
        for piece in pieces:
            end = at + len(piece.rows)
            place = held.piece((slice(at, end),), (_as_slice(piece.rows),))
            self.weights.expect(f"{piece.name}.bias", (piece.out_features,), place)
            at = end


def _as_slice(part: range) -> slice:
    return slice(part.start, part.stop)
