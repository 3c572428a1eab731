"""Every installed plugin as one row: what it is, whether it can be used, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["PluginRow", "format_table"]


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One plugin, or one platform of a plugin that offers several."""

    name: str
    distribution: str
    version: str
    interface: str
    status: Literal["active", "usable", "not usable", "broken"]
    """active: what `--device auto` takes."""
    reason: str
    score: int = 0
    device_count: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    """Driver, SDK and the like, as the probe told."""
    trace: str = ""
    """End of the traceback of a broken one."""


def format_table(rows: Sequence[PluginRow]) -> str:
    """Aligned text, the reason last."""
    head = ("NAME", "VERSION", "INTERFACE", "STATUS", "REASON")
    cells = [head, *((r.name, r.version, r.interface, r.status, r.reason) for r in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = []
    for row in cells:
        fixed = "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
        lines.append(f"{fixed}  {row[4]}".rstrip())
    return "\n".join(lines)
