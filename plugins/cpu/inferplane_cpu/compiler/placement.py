"""What lowering remembers: where rows lie, what waits, and which symbols feed a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from inferplane_cpu.compiler.capture import Columns, Symbol
from inferplane_cpu.native.library import Prologue

__all__ = ["IDS", "Bindings", "Pending", "Place"]

IDS = -1  # in place of a buffer's number: the program's chosen ids


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's rows lie: columns from `at` of a buffer."""

    buffer: int
    at: int = 0


@dataclass(slots=True)
class Bindings:
    """Which symbols feed the step's arrays; all groups' metadata come in order of first use."""

    token_ids: Symbol | None = None
    positions: Symbol | None = None
    rows: Symbol | None = None
    groups: list[Mapping[str, Symbol]] = field(default_factory=list)


@dataclass(slots=True)
class Pending:
    """A norm or gate waiting for its reader."""

    prologue: Prologue
    source: Columns
    norm: Tensor | None = None
    eps: float = 0.0
