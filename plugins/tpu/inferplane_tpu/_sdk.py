"""The XLA software stack as Python sees it: what must be installed, told without importing it.

The only module of this plugin that may ever import `torch_xla`: `libtpu` belongs to one process
of a host, so nobody but the worker may touch it.
"""

from __future__ import annotations

from inferplane.probing import Requirement

__all__ = ["problem", "versions"]

_EXACT = "2.9.0"
"""torch_xla's last release; it works with this torch and no other."""
REQUIRED = (
    Requirement("torch-xla", _EXACT, "torch_xla", 'PyPI (`pip install "inferplane-tpu[xla]"`)'),
    Requirement("torch", _EXACT, "torch", "PyPI"),
    Requirement("libtpu", "0.0.21", "libtpu", "PyPI"),
)


def problem() -> str:
    """Why the stack cannot be used, with the next step; "" = it looks right."""
    for requirement in REQUIRED:
        if missing := requirement.problem():
            return missing
    torch = REQUIRED[1].version()
    if torch.split("+")[0] != _EXACT:
        return f"torch {torch} does not fit torch-xla {_EXACT}, which needs torch =={_EXACT}"
    return ""


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return {r.distribution: version for r in REQUIRED if (version := r.version())}
