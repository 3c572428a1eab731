"""Kernels for catalogue ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from inferplane.interfaces.capabilities import Capabilities

__all__ = ["Kernel", "OpSite", "Reasons"]

Reasons: TypeAlias = tuple[str, ...]
"""Why not; () = supported. Computing it never raises and never touches the device."""


@dataclass(frozen=True, slots=True)
class OpSite:
    """Where the model calls an op: name, activation dtype, fixed dimensions ({"H": 4096})."""

    op: str
    dtype: str
    dims: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One implementation with its conditions; a plain function fits everywhere."""

    run: Callable[..., Any]
    supports: Callable[[OpSite, Capabilities], Reasons]
