"""torch-neuronx as the compiler. Nothing here ran on a chip; see the README."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from inferplane_neuron import _sdk
from inferplane_neuron.programs import Driver, Program

__all__ = ["TraceDriver"]


class TraceDriver(Driver):
    """Traces, compiles with neuronx-cc, saves as TorchScript, as the vendor documents it."""

    torch_device = "cpu"
    """The runtime moves arguments itself."""

    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        """Minutes to hours."""
        with torch.no_grad():
            traced = _sdk.trace(module, example, path.with_name(f"{path.name}.work"))
        torch.jit.save(traced, str(path))

    def load(self, path: Path) -> Program:
        """Ready to run on the worker's cores."""
        program: Program = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        return program
