"""Feed-forward part of routed experts.

T tokens, D model size, I inner size, E experts, k of them active.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from inferplane.layers.activation import gate_op
from inferplane.layers.build import Builder
from inferplane.layers.linear import Linear
from inferplane.layers.packed_experts import packed_experts
from inferplane.layers.parameters import hold
from inferplane.loading.weights import Assembly
from inferplane.model_config import MoeConfig
from inferplane.quantization.reference import dequantize

__all__ = ["ExpertNames", "MoeMlp"]

_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """What a checkpoint calls the projections of an expert: `prefix`.experts.3.`gate`.weight."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"

    def of_all(self, prefix: str, num_experts: int) -> list[tuple[str, str, str]]:
        """The layers (gate, up, down) of each expert."""
        stems = [f"{prefix}.experts.{expert}" for expert in range(num_experts)]
        return [(f"{x}.{self.gate}", f"{x}.{self.up}", f"{x}.{self.down}") for x in stems]


class MoeMlp:
    """x[T,D] -> [T,D]: the k best of E gated feed-forward parts, weighted by the router."""

    __slots__ = (
        "_act",
        "_config",
        "_experts",
        "_packed",
        "_reduce",
        "_route",
        "down",
        "gate_up",
        "router",
    )

    gate_up: Tensor
    """[E,2I,D]"""
    down: Tensor
    """[E,D,I]"""

    def __init__(
        self, build: Builder, prefix: str, moe: MoeConfig, names: ExpertNames | None = None
    ) -> None:
        """`prefix`.gate.weight is the router; it is never quantised."""
        size, inner = build.config.hidden_size, moe.intermediate_size
        part = build.part(inner, f"the inner size of {prefix}")
        self.router = Linear(build.op("linear/1", I=size, O=moe.num_experts))
        shape = (moe.num_experts, size)
        router = hold(build, self.router, "weight", shape, build.dtype)
        build.weights.expect(f"{prefix}.gate.weight", shape, router.piece((_ALL,), (_ALL,)))
        dims = {"E": moe.num_experts, "k": moe.num_active}
        self._route = build.op("moe_topk/1", **dims)
        self._config = moe
        self._act = "silu" if gate_op(build.config.activation) == "silu_mul/1" else "gelu"
        self._reduce = build.communicator.all_reduce if build.communicator else None
        experts = (names or ExpertNames()).of_all(prefix, moe.num_experts)
        self._packed = packed_experts(build, experts, inner, part)
        if self._packed is None:
            self._experts = build.op("fused_moe/1", D=size, I=len(part), **dims)
            _declare(build, self, experts, inner, part)

    def __call__(self, x: Tensor) -> Tensor:
        moe = self._config
        weights, ids = self._route(self.router(x), moe.num_active, moe.renormalize, "softmax")
        if self._packed is not None:
            out = self._packed(x, weights, ids)
        else:
            out = self._experts(x, self.gate_up, self.down, weights, ids, self._act)
        return out if self._reduce is None else self._reduce(out)


def _declare(
    build: Builder,
    owner: MoeMlp,
    experts: Sequence[tuple[str, str, str]],
    inner: int,
    part: range,
) -> None:
    """Expect the three matrices of every expert and stack them."""
    size, width, count = build.config.hidden_size, len(part), len(experts)
    gate_up = hold(build, owner, "gate_up", (count, 2 * width, size), build.dtype, cut=1)
    down = hold(build, owner, "down", (count, size, width), build.dtype, cut=2)
    mine = slice(part.start, part.stop)
    for expert, (*inputs, output) in enumerate(experts):
        for place, name in enumerate(inputs):
            at = slice(place * width, (place + 1) * width)
            _expect(build, name, (inner, size), _Target(gate_up, expert, at, (mine, _ALL)))
        _expect(build, output, (size, inner), _Target(down, expert, _ALL, (_ALL, mine)))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one matrix of one expert goes, and which part of it."""

    stack: Assembly
    expert: int
    rows: slice
    taken: tuple[slice, slice]

    def put(self, source: Tensor) -> None:
        self.stack.tensor()[self.expert, self.rows].copy_(source[self.taken])


def _expect(build: Builder, name: str, shape: tuple[int, int], target: _Target) -> None:
    """Dense experts: a quantised one is dequantised while it is loaded, and counted."""
    scheme = build.quantizer.stored_scheme(name)
    if scheme is None:
        if build.quantizer.online_scheme(name, shape[1], shape[0]) is not None:
            build.quantizer.count_fallback("quantized_moe")
        build.weights.expect(f"{name}.weight", shape, target.put)
        return
    build.quantizer.count_fallback("quantized_moe")
    # As a whole first: a rank's inputs need not be whole groups.
    build.quantizer.stored(name, shape, scheme, lambda w: target.put(dequantize(w, scheme)))
