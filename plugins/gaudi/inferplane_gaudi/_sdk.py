"""The Gaudi software stack as Python sees it: what must be installed, told without importing it.

The only module of this plugin that may ever import `habana_frameworks`: the import reads its
environment once, so it belongs into a worker whose environment is already in place.
"""

from __future__ import annotations

from inferplane.probing import Requirement

__all__ = ["problem", "versions"]

REQUIRED = (
    Requirement(
        "habana-torch-plugin",
        "1.22",
        "habana_frameworks",
        "the vendor's own package index or container image",
    ),
    Requirement("torch", "2.7", "torch", "the same place as habana-torch-plugin: a fork of torch"),
)


def problem() -> str:
    """Why the stack cannot be used, with the next step; "" = it looks right."""
    for requirement in REQUIRED:
        if missing := requirement.problem():
            return missing
    return ""


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return {r.distribution: version for r in REQUIRED if (version := r.version())}
