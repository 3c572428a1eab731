"""Feed-forward parts of a decoder layer. T tokens, D model size, I inner size."""

from __future__ import annotations

from torch import Tensor

from inferplane.layers.activation import gate_op
from inferplane.layers.build import Builder
from inferplane.layers.fused import GatedDown
from inferplane.layers.stacked import stacked_linear

__all__ = ["GatedMlp"]


class GatedMlp:
    """x[T,D] -> [T,D]: down(act(gate(x)) * up(x)), gate and up in one multiplication."""

    __slots__ = ("down", "finish", "gate_up")

    def __init__(self, build: Builder, prefix: str, bias: bool = False, stacked: str = "") -> None:
        """`prefix` names the tensors: `prefix`.gate_proj.weight, .up_proj, .down_proj.

        `stacked` = the one tensor that holds gate and up, where there is such.
        """
        size, inner = build.config.hidden_size, build.config.intermediate_size
        part = build.part(inner, f"the inner size of {prefix}")
        if stacked:
            name, both = f"{prefix}.{stacked}", (inner, inner)
            self.gate_up = stacked_linear(build, name, size, both, (part, part), bias=bias)
        else:
            names = (f"{prefix}.gate_proj", f"{prefix}.up_proj")
            self.gate_up = build.merged_linear(names, size, (inner, inner), bias, (part, part))
        self.down = build.linear(f"{prefix}.down_proj", inner, size, bias, split="inputs")
        gate = gate_op(build.config.activation)
        act = build.op(gate, I=len(part))
        self.finish = GatedDown(build, act, gate == "silu_mul/1", self.down)
        """gate_up(x)[T,2I] -> [T,D]"""

    def __call__(self, x: Tensor) -> Tensor:
        return self.finish(self.gate_up(x))
