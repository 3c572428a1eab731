"""A device that compiles every shape apart, emulated: a torch.compile backend that counts and
refuses. Needs torch; no accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.aot_autograd import aot_module_simplified
from torch.fx import GraphModule

from inferplane.errors import DeviceError
from inferplane.execution.own_code import own_code

__all__ = ["GraphKey", "TracedDevice"]

GraphKey: TypeAlias = tuple[tuple[tuple[int, ...], str], ...]
"""(shape, dtype) of each tensor a graph takes, in order."""


class TracedDevice:
    """A torch.compile backend with the rules of devices that run compiled graphs and nothing else.

    Use: `torch.compile(fn, backend=device, fullgraph=True, dynamic=False)`, or `device.compile(fn)`
    which means the same; warm up every shape, `seal()`, serve. Each compilation is one entry of
    `graphs`, so that "one graph a bucket, none later" is
    `len(graphs) == len(set(graphs)) == len(buckets)` and `after_seal == 0`. A dimension that is not
    a number raises DeviceError while compiling; torch itself refuses a branch on a value and, with
    `fullgraph`, whatever would split the graph.
    """

    def __init__(self, *, aliased: bool = True) -> None:
        """`aliased`: writes into an input become an output of the graph that is copied back into it
        after the run, as on devices that donate buffers; False: graphs write in place."""
        self.graphs: list[GraphKey] = []
        """Every compilation so far."""
        self.after_seal = 0
        """How many of them came after `seal`."""
        self._aliased = aliased
        self._sealed = False

    def seal(self) -> None:
        """Warm-up is over: what is compiled from now on stalls requests."""
        self._sealed = True

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` as one graph a shape. Its programs count against no other function's limit."""
        return torch.compile(own_code(fn), backend=self, fullgraph=True, dynamic=False)

    def __call__(self, module: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """What torch calls to compile one graph. Raises DeviceError for a dynamic dimension."""
        if not self._aliased:
            self._count(module, inputs)
            in_place: Callable[..., Any] = module.forward
            return in_place

        def lower(gm: GraphModule, example_inputs: Sequence[Any]) -> Any:
            self._count(gm, example_inputs)
            return make_boxed_func(gm.forward)

        return aot_module_simplified(module, list(inputs), fw_compiler=lower)

    def _count(self, graph: GraphModule, inputs: Sequence[Any]) -> None:
        made = [node.meta.get("val", node.meta.get("example_value")) for node in graph.graph.nodes]
        for value in (*inputs, *made):
            if _is_dynamic(value):
                raise DeviceError(
                    f"a dynamic dimension reached the device: {value}; every size of a step must "
                    "be a number that its bucket fixes"
                )
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        self.graphs.append(tuple((tuple(x.shape), str(x.dtype)) for x in tensors))
        self.after_seal += self._sealed


def _is_dynamic(value: object) -> bool:
    if isinstance(value, Tensor):
        return any(isinstance(size, torch.SymInt) for size in value.shape)
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
