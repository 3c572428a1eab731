"""Intel's software as Python sees it: what must be installed, told without importing it."""

from __future__ import annotations

from importlib import metadata

from inferplane.probing import Requirement

__all__ = ["problem", "versions"]

_SOURCE = "PyTorch's own index of XPU builds (PyPI's torch is another build)"
TORCH = Requirement("torch", "2.9", "torch", _SOURCE)
_TRITONS = ("pytorch-triton-xpu", "triton-xpu")
"""Its name at PyTorch's index, and the project's own."""


def problem() -> str:
    """Why torch or Triton cannot be used, with the next step; "" = they look right."""
    if missing := TORCH.problem():
        return missing
    if "+xpu" not in TORCH.version():
        return f"torch {TORCH.version()} is not an XPU build: +xpu builds come from {_SOURCE}"
    if not any(_installed(name) for name in _TRITONS):
        return f"no Triton with a code generator for these GPUs: {_TRITONS[0]} comes from {_SOURCE}"
    return ""


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    found = {name: _installed(name) for name in ("torch", *_TRITONS)}
    return {name: version for name, version in found.items() if version}


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
