"""The compiler's place taken by torch.export: the same rules, on the processor, without an SDK."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from inferplane_neuron.programs import Driver, Program

__all__ = ["ExportDriver"]


class ExportDriver(Driver):
    """Whole graphs of fixed shapes: a branch on a value, or a dynamic size, is an error."""

    torch_device = "cpu"

    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        """Export and save; programs hold no weights."""
        with torch.no_grad(), path.open("wb") as file:
            torch.export.save(torch.export.export(module, example, strict=False), file)

    def load(self, path: Path) -> Program:
        """A module that checks the shapes of what it is given."""
        with path.open("rb") as file:
            program: Program = torch.export.load(file).module()
        return program
