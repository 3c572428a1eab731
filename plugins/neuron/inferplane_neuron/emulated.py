"""The compiler's place taken by torch.export: the same rules, on the processor, without an SDK.

Several cores are several runs of one program side by side, operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from inferplane_neuron.collectives import Alone, Collectives
from inferplane_neuron.programs import Cores, Driver, Program

__all__ = ["ExportDriver", "GraphCollectives"]

_GROUP = "cores"


class GraphCollectives(Collectives):
    """As nodes of the program; they have a meaning once cores run it together."""

    def __init__(self, cores: int) -> None:
        self._cores = cores

    def total(self, x: Tensor) -> Tensor:
        """An all-reduce."""
        out: Tensor = torch.ops._c10d_functional.all_reduce.default(x, "sum", _GROUP)
        return out

    def joined(self, x: Tensor) -> Tensor:
        """An all-gather, which joins rows, so columns are turned for it."""
        gather = torch.ops._c10d_functional.all_gather_into_tensor.default
        out: Tensor = gather(x.movedim(-1, 0).contiguous(), self._cores, _GROUP)
        return out.movedim(0, -1)


class ExportDriver(Driver):
    """Whole graphs of fixed shapes: a branch on a value, or a dynamic size, is an error."""

    torch_device = "cpu"

    def __init__(self, cores: int = 1) -> None:
        self.cores = cores

    def collectives(self) -> Collectives:
        """Nodes of the graph, unless there is one core."""
        return Alone() if self.cores == 1 else GraphCollectives(self.cores)

    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        """Export and save; programs hold no weights."""
        with torch.no_grad(), path.open("wb") as file:
            torch.export.save(torch.export.export(module, example, strict=False), file)

    def load(self, path: Path) -> Program:
        """A program that checks the shapes of what it is given."""
        with path.open("rb") as file:
            program = torch.export.load(file).module()
        assert isinstance(program, fx.GraphModule)
        return _SideBySide(program)


class _SideBySide:
    """One program on several cores in lockstep; where they meet, all have come."""

    def __init__(self, program: fx.GraphModule) -> None:
        self._program = program
        ops = torch.ops._c10d_functional
        self._meetings: Mapping[object, Callable[[Sequence[Any]], Tensor]] = {
            ops.all_reduce.default: _sum_in_order,
            ops.all_gather_into_tensor.default: lambda parts: torch.cat(list(parts)),
        }

    def __call__(self, cores: Cores) -> Sequence[Sequence[Tensor]]:
        """The outputs of each core."""
        if len(cores) == 1:
            return [self._program(*cores[0])]
        graph = self._program.graph
        runs = [fx.Interpreter(self._program) for _ in cores]
        for run, arguments in zip(runs, cores, strict=True):
            run.args_iter = iter(graph.process_inputs(*arguments))
        outputs: list[Any] = []
        for node in graph.nodes:
            if node.target in self._meetings:
                met = self._meetings[node.target]([run.env[node.args[0]] for run in runs])
                outputs = [met for _ in runs]
            else:
                outputs = [run.run_node(node) for run in runs]
            for run, value in zip(runs, outputs, strict=True):
                run.env[node] = value
                for done in run.user_to_last_uses.get(node, ()):
                    del run.env[done]
        return [graph.process_outputs(output) for output in outputs]


def _sum_in_order(parts: Sequence[Tensor]) -> Tensor:
    """The same sum whichever core asks."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
