"""The SDK as the compiler: torch-neuronx for one core, NxD for several. Nothing here ran on a chip;
see the README."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inferplane_neuron import _sdk
from inferplane_neuron.collectives import Alone, Collectives
from inferplane_neuron.programs import Cores, Driver, Program

__all__ = ["SpmdDriver", "TraceDriver"]


class TraceDriver(Driver):
    """Traces, compiles with neuronx-cc, saves as TorchScript, as the vendor documents it."""

    torch_device = "cpu"
    """The runtime moves arguments itself."""
    cores = 1

    def collectives(self) -> Collectives:
        """One core has nobody to tell."""
        return Alone()

    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        """Minutes to hours."""
        with torch.no_grad():
            traced = _sdk.trace(module, example, path.with_name(f"{path.name}.work"))
        torch.jit.save(traced, str(path))

    def load(self, path: Path) -> Program:
        """Ready to run on the worker's core."""
        program: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        return lambda cores: [program(*cores[0])]


class SpmdDriver(Driver):
    """One program for all cores, by NxD's ModelBuilder: each runs it on arguments of its own."""

    torch_device = "cpu"
    """The runtime moves arguments itself."""

    def __init__(self, cores: int) -> None:
        self.cores = cores

    def collectives(self) -> Collectives:
        """NxD's own, which its tracer turns into the device's."""
        return _NxdCollectives()

    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        """Minutes to hours."""
        with torch.no_grad():
            _sdk.build_spmd(_Named(module, len(example)), example, self.cores, path)

    def load(self, path: Path) -> Program:
        """Loaded onto as many cores."""
        model = _sdk.load_spmd(path)

        def run(cores: Cores) -> Sequence[Sequence[Tensor]]:
            by_argument = [list(column) for column in zip(*cores, strict=True)]
            by_output = model(*by_argument, forward_mode="async")
            return [list(core) for core in zip(*by_output, strict=True)]

        return run


class _NxdCollectives(Collectives):
    def total(self, x: Tensor) -> Tensor:
        out: Tensor = _sdk.mappings().reduce_from_tensor_model_parallel_region(x)
        return out

    def joined(self, x: Tensor) -> Tensor:
        out: Tensor = _sdk.mappings().gather_from_tensor_model_parallel_region(x)
        return out


class _Named:
    """NxD reads a function's parameters and takes none that are collected in a tuple."""

    def __init__(self, module: nn.Module, count: int) -> None:
        self._module = module
        kind = Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = Signature([Parameter(f"x{place}", kind) for place in range(count)])

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Any:
        named = (kwargs[name] for name in list(self.__signature__.parameters)[len(args) :])
        return self._module(*args, *named)
