"""Rows that meet the matrices of their own experts: who meets which, and the product with a stack.

R rows, k experts of each, P = R * k pairs of both, E experts, O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from inferplane_triton.device.experts import sort_pairs
from inferplane_triton.device.stacks import multiply_stack
from inferplane_triton.tuning import expert_tuning, target

__all__ = ["Routes", "multiply_widened"]

_SORTED = 1024
"""Pairs of a loop step."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Pairs of a row and one of its experts, sorted by expert; none of it is known to the host."""

    order: Tensor
    """i32[P]: pair p is row p // k."""
    counts: Tensor
    """i32[E]"""
    choices: int
    """k"""

    @classmethod
    def of(cls, ids: Tensor, experts: int) -> Routes:
        """For the experts ids i32[R,k]; pairs of one expert keep their order."""
        order = torch.empty(ids.numel(), dtype=torch.int32, device=ids.device)
        counts = torch.empty(experts, dtype=torch.int32, device=ids.device)
        sort_pairs[(experts,)](
            ids.contiguous(), order, counts, ids.numel(), BLOCK=_SORTED, num_warps=4
        )
        return cls(order, counts, ids.shape[1])

    @property
    def average(self) -> int:
        """Pairs of an expert."""
        return -(-len(self.order) // len(self.counts))


def multiply_widened(x: Tensor, weights: Tensor, routes: Routes) -> Tensor:
    """x[R,I] times each row's experts' matrices of weights[E*O,I] in x's type -> [P,O]."""
    experts, inputs, num_pairs = len(routes.counts), x.shape[1], len(routes.order)
    outputs = len(weights) // experts
    out = torch.empty((num_pairs, outputs), dtype=x.dtype, device=x.device)
    found = target()
    tuning = expert_tuning(found, routes.average, x.element_size())
    upcast = found.backend == "interpreter" and x.dtype == torch.bfloat16
    grid = triton.cdiv(outputs, tuning.cols), num_pairs // tuning.rows + min(experts, num_pairs)
    multiply_stack[grid](
        x.contiguous(), weights, weights, weights, routes.order, routes.counts, out, outputs,
        CHOICES=routes.choices, EXPERTS=experts, E_PAD=int(triton.next_power_of_2(experts)),
        INPUTS=inputs, GROUP=inputs, WIDE=1, ROWS=tuning.rows, COLS=tuning.cols,
        STEP=tuning.inputs, DENSE=True, BYTES=False, OFFSET=False, UPCAST=upcast,
        num_warps=tuning.warps, num_stages=tuning.stages,
    )  # fmt: skip
    return out
