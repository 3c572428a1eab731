"""The Neuron software stack as Python sees it: what must be installed, told without importing it.

The only module of this plugin that may ever import `torch_neuronx`. Presence proves nothing: PyPI
holds empty packages of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from inferplane.probing import Requirement, first_problem, installed_versions

__all__ = ["problem", "trace", "versions"]

_SOURCE = "the vendor's own package index (what PyPI holds under this name is empty)"
REQUIRED = (
    Requirement("torch-neuronx", "2.8", "torch_neuronx", _SOURCE),
    Requirement("neuronx-cc", "2.21", "neuronxcc", _SOURCE),
    Requirement("libneuronxla", "2.2", "libneuronxla", _SOURCE),
    Requirement("torch", "2.8", "torch", "PyPI, in the version torch-neuronx asks for"),
)


def problem() -> str:
    """Why the stack cannot be used, with the next step; "" = it looks right."""
    return first_problem(REQUIRED)


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return installed_versions(REQUIRED)


def trace(module: Callable[..., Any], example: tuple[Any, ...], folder: Path) -> Any:
    """A TorchScript module that runs `module` on a NeuronCore, compiled for the example's shapes.

    Intermediate files go to `folder`. Raises whatever the compiler raises.
    """
    torch_neuronx = import_module("torch_neuronx")
    return torch_neuronx.trace(module, example, compiler_workdir=str(folder))
