"""The Neuron software stack as Python sees it: what must be installed, told without importing it.

The only module of this plugin that may ever import the SDK. Presence proves nothing: PyPI
holds empty packages of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from inferplane.probing import Requirement, first_problem, installed_versions

__all__ = ["build_spmd", "load_spmd", "mappings", "problem", "trace", "versions"]

_SOURCE = "the vendor's own package index (what PyPI holds under this name is empty)"
REQUIRED = (
    Requirement("torch-neuronx", "2.8", "torch_neuronx", _SOURCE),
    Requirement("neuronx-cc", "2.21", "neuronxcc", _SOURCE),
    Requirement("libneuronxla", "2.2", "libneuronxla", _SOURCE),
    Requirement("torch", "2.8", "torch", "PyPI, in the version torch-neuronx asks for"),
)


SPMD = Requirement("neuronx-distributed", "0.15", "neuronx_distributed", _SOURCE)
"""For several cores."""


def problem(cores: int = 1) -> str:
    """Why the stack cannot be used for so many cores, with the next step; "" = it looks right."""
    return first_problem(REQUIRED if cores == 1 else (*REQUIRED, SPMD))


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return installed_versions((*REQUIRED, SPMD))


def trace(module: Callable[..., Any], example: tuple[Any, ...], folder: Path) -> Any:
    """A TorchScript module that runs `module` on a NeuronCore, compiled for the example's shapes.

    Intermediate files go to `folder`. Raises whatever the compiler raises.
    """
    torch_neuronx = import_module("torch_neuronx")
    return torch_neuronx.trace(module, example, compiler_workdir=str(folder))


def build_spmd(
    function: Callable[..., Any], example: tuple[Any, ...], cores: int, path: Path
) -> None:
    """Compile one program for `cores` cores into `path`; `example` is what one of them is given.

    As AWS documents ModelBuilder of NxD Core. Raises whatever the compiler raises.
    """
    nxd = import_module("neuronx_distributed")
    with nxd.NxDParallelState(world_size=cores, tensor_model_parallel_size=cores):
        traced = nxd.ModelBuilder(function).trace(args=example, tag="step")
        model = traced.compile(compiler_workdir=str(path.with_name(f"{path.name}.work")))
    model.save(str(path))


def load_spmd(path: Path) -> Any:
    """The model of `build_spmd` on its cores; called with forward_mode "async" it takes a list for
    each argument and gives one for each output, with an entry for each core."""
    model = import_module("neuronx_distributed").NxDModel.load(str(path))
    model.to_neuron()
    return model


def mappings() -> Any:
    """NxD's collectives over the cores of a program."""
    return import_module("neuronx_distributed.parallel_layers.mappings")
