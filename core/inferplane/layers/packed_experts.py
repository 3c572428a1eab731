"""Routed experts whose matrices stay quantised, where the device has a kernel for them.

T tokens, D model size, I inner size of this rank, E experts, k of them active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.interfaces import QuantScheme
from inferplane.layers.activation import gate_op
from inferplane.layers.build import Builder
from inferplane.layers.quantized import Piece
from inferplane.layers.quantized_stack import QuantizedStack

__all__ = ["PackedExperts", "StackedExperts", "packed_experts"]

Experts = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x[T,D], weights f32[T,k], ids i32[T,k] -> [T,D]"""


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """Weighted sum of the chosen experts' gated feed-forward parts, in two grouped products.

    Each row sees its own experts, and no shape depends on the routing.
    """

    gate_up: Callable[[Tensor, Tensor], Tensor]
    """x[R,D] and ids i32[R,k] -> [R*k,2I]"""
    down: Callable[[Tensor, Tensor], Tensor]
    """x[R,I] and ids i32[R,k] -> [R*k,D]"""
    act: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """x[T,D] -> [T,D] for weights f32[T,k] of the experts ids i32[T,k]; a token's sum is in the
        order of its ids."""
        parts = self.down(self.act(self.gate_up(x, ids)), ids.reshape(-1, 1))
        shares = parts.view(*ids.shape, x.shape[1]).float().mul_(weights.unsqueeze(2))
        return shares.sum(1).to(x.dtype)


class PackedExperts:
    """Weighted sum of the chosen experts' gated feed-forward parts, each by a kernel of its own.

    `sorts`: the routing is read on the host and each expert sees its own tokens. Otherwise every
    expert sees every token, as in the reference `fused_moe`: no shape depends on the routing.
    """

    __slots__ = ("_act", "_down", "_gate_up", "_sorts")

    def __init__(
        self,
        gate_up: Sequence[Callable[[Tensor], Tensor]],
        down: Sequence[Callable[[Tensor], Tensor]],
        act: Callable[[Tensor], Tensor],
        sorts: bool = False,
    ) -> None:
        self._gate_up = tuple(gate_up)
        self._down = tuple(down)
        self._act = act
        self._sorts = sorts

    def __call__(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """x[T,D] -> [T,D] for weights f32[T,k] of the experts ids i32[T,k]."""
        return self._chosen(x, weights, ids) if self._sorts else self._all(x, weights, ids)

    def _chosen(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """A token's sum is in the order of its ids."""
        chosen, order = ids.flatten().sort(stable=True)
        counts = torch.bincount(chosen, minlength=len(self._down)).tolist()
        parts = torch.empty((len(order), x.shape[1]), dtype=torch.float32, device=x.device)
        start = 0
        for expert, count in enumerate(counts):
            if not count:
                continue
            pairs = order[start : start + count]
            rows = x.index_select(0, pairs // ids.shape[1])
            parts[pairs] = self._down[expert](self._act(self._gate_up[expert](rows))).float()
            start += count
        total = parts.view(*ids.shape, x.shape[1]).mul_(weights.unsqueeze(2)).sum(1)
        return total.to(x.dtype)

    def _all(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        share = torch.zeros(x.shape[0], len(self._down), dtype=torch.float32, device=x.device)
        share = share.scatter_add(1, ids.long(), weights)
        total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for expert, (gate_up, down) in enumerate(zip(self._gate_up, self._down, strict=True)):
            total = total + down(self._act(gate_up(x))).float() * share[:, expert, None]
        return total.to(x.dtype)


def packed_experts(
    build: Builder, experts: Sequence[tuple[str, str, str]], inner: int, part: range
) -> Experts | None:
    """The experts of checkpoint layers (gate, up, down), of which this rank computes the rows
    `part`; None where they are stored in high precision or some matrix has no kernel.

    Where the routing can be read on the host a kernel for each matrix is enough; elsewhere they are
    stacks, if the device multiplies stacks of their kind.

    Raises ConfigError where a kernel is missing and the user forbade to dequantise.
    """
    size = build.config.hidden_size
    schemes = [_schemes(build, names, inner, part) for names in experts]
    found = [both for both in schemes if both is not None]
    if len(found) < len(schemes):
        return None
    act = build.op(gate_op(build.config.activation), I=len(part))
    # where tensors lie on the host and no step is traced, the routing is there to be read
    sorts = build.device == "cpu" and not build.binder.caps.static_shapes
    if not sorts and len(set(found)) == 1:
        stacked = _stacks(build, experts, inner, part, found[0])
        if stacked is not None:
            return StackedExperts(*stacked, act)
    make, every = build.quantizer.linear, range(size)
    gate_up, down = [], []
    for (gate, up, back), (first, second) in zip(experts, found, strict=True):
        pieces = [Piece(gate, inner, part), Piece(up, inner, part)]
        gate_up.append(make(pieces, size, every, first))
        down.append(make([Piece(back, size, every)], inner, part, second))
    return PackedExperts(gate_up, down, act, sorts)


def _stacks(
    build: Builder,
    experts: Sequence[tuple[str, str, str]],
    inner: int,
    part: range,
    schemes: tuple[QuantScheme, QuantScheme],
) -> tuple[QuantizedStack, QuantizedStack] | None:
    """Those of gate and up, and of down; None unless kernels multiply both."""
    size, first, second = build.config.hidden_size, *schemes
    quantizer, every, count = build.quantizer, range(size), len(experts)
    if not (
        quantizer.has_stacks(first, size, 2 * len(part), count)
        and quantizer.has_stacks(second, len(part), size, count)
    ):
        return None
    inputs = [[Piece(name, inner, part) for name in names[:2]] for names in experts]
    outputs = [[Piece(names[2], size, every)] for names in experts]
    gate_up = quantizer.stack(inputs, size, every, first)
    return gate_up, quantizer.stack(outputs, inner, part, second)


def _schemes(
    build: Builder, names: tuple[str, str, str], inner: int, part: range
) -> tuple[QuantScheme, QuantScheme] | None:
    """Those of gate and up, and of down, if kernels serve them."""
    size, find = build.config.hidden_size, build.quantizer.packed_scheme
    gate, up = (find(name, size, 2 * len(part)) for name in names[:2])
    down = find(names[2], len(part), size)
    if gate is None or gate != up or gate.reordered or down is None:
        return None
    is_cut = len(part) < inner
    if is_cut and (down.reordered or (down.group > 0 and len(part) % down.group)):
        return None
    return gate, down
