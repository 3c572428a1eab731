"""Feed-forward parts of a decoder layer. T tokens, D model size, I inner size."""

from __future__ import annotations

from torch import Tensor

from inferplane.layers.activation import gate_op
from inferplane.layers.build import Builder

__all__ = ["GatedMlp"]


class GatedMlp:
    """x[T,D] -> [T,D]: down(act(gate(x)) * up(x)), gate and up in one multiplication."""

    __slots__ = ("act", "down", "gate_up")

    def __init__(self, build: Builder, prefix: str, bias: bool = False) -> None:
        """`prefix` names the tensors: `prefix`.gate_proj.weight, .up_proj, .down_proj."""
        size, inner = build.config.hidden_size, build.config.intermediate_size
        part = build.part(inner, f"the inner size of {prefix}")
        self.gate_up = build.merged_linear(
            (f"{prefix}.gate_proj", f"{prefix}.up_proj"), size, (inner, inner), bias, (part, part)
        )
        self.act = build.op(gate_op(build.config.activation), I=len(part))
        self.down = build.linear(f"{prefix}.down_proj", inner, size, bias, split="inputs")

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate_up(x)))
