"""Processor time that a process and its children use while they have no work."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["cpu_share"]

_SECONDS = 5.0


def cpu_share(pid: int) -> float:
    """Share of one processor over five seconds."""
    began = _ticks(pid)
    time.sleep(_SECONDS)
    return (_ticks(pid) - began) / os.sysconf("SC_CLK_TCK") / _SECONDS


def _ticks(pid: int) -> int:
    """User and system time of the process and all that descend from it, in clock ticks."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:  # ended meanwhile
            continue
        fields = rest.split()
        stats[int(name.split()[0])] = int(fields[1]), int(fields[11]) + int(fields[12])
    family, grown = {pid}, True
    while grown:
        children = {one for one, (parent, _) in stats.items() if parent in family}
        grown = not children <= family
        family |= children
    return sum(stats[one][1] for one in family if one in stats)
