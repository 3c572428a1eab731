"""What this machine is: instruction sets, processors this process may use, memory it may use.

Reads /proc and /sys alone; imports no torch. Whatever is missing or unreadable is simply unknown.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inferplane.probing import read_text

__all__ = ["Host", "parse_cpus", "read_host"]

_LEVELS = (
    ("amx", ("amx_tile", "amx_bf16", "amx_int8")),
    ("avx512_bf16", ("avx512f", "avx512bw", "avx512vl", "avx512_bf16")),
    ("avx512", ("avx512f", "avx512bw", "avx512vl")),
    ("avx2", ("avx2", "fma")),
)
"""Best first; `arch` is the first whose flags are all there."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine as this process may use it."""

    model: str
    """The processor's own name."""
    flags: frozenset[str]
    arch: str
    """"amx", "avx512_bf16", "avx512", "avx2", or the machine name where none is there."""
    cpus: tuple[int, ...]
    """Logical processors this process may run on."""
    cores: tuple[tuple[int, ...], ...]
    """The same, one tuple a physical core; siblings together."""
    nodes: Mapping[int, tuple[int, ...]]
    """NUMA node -> its processors among `cpus`."""
    quota: float
    """Processors' worth of time the control group grants; 0 = no limit."""
    memory_bytes: int
    """Physical memory, or the control group's limit where that is less; 0 = unknown."""

    @property
    def has_bf16(self) -> bool:
        """Whether bfloat16 products are computed in hardware."""
        return bool(self.flags & {"avx512_bf16", "amx_bf16"})

    @property
    def num_cores(self) -> int:
        """Physical cores' worth of compute there is: affinity and quota both count."""
        granted = max(int(self.quota), 1) if self.quota else len(self.cores)
        return max(min(len(self.cores), granted), 1)


def read_host(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> Host:
    """`root`: the file system whose /proc and /sys are read. `cpus`: what the process may use
    (default: ask the kernel).
    """
    info = read_text(root / "proc/cpuinfo")
    flags = frozenset(_field(info, "flags").split())
    allowed = tuple(sorted(os.sched_getaffinity(0) if cpus is None else cpus))
    return Host(
        model=_field(info, "model name") or platform.machine(),
        flags=flags,
        arch=next((n for n, need in _LEVELS if flags.issuperset(need)), platform.machine()),
        cpus=allowed,
        cores=_cores(root, allowed),
        nodes=_nodes(root, allowed),
        quota=_quota(root),
        memory_bytes=_memory(root),
    )


def parse_cpus(text: str) -> tuple[int, ...]:
    """The kernel's list format: "0-3,8" -> (0, 1, 2, 3, 8). Raises ValueError."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _field(info: str, name: str) -> str:
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _cores(root: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    cores: dict[tuple[int, ...], None] = {}
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = parse_cpus(read_text(folder / "thread_siblings_list")) or (cpu,)
        cores[tuple(c for c in siblings if c in cpus) or (cpu,)] = None
    return tuple(cores)


def _nodes(root: Path, cpus: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    nodes = {}
    for folder in sorted(root.glob("sys/devices/system/node/node[0-9]*")):
        mine = tuple(c for c in parse_cpus(read_text(folder / "cpulist")) if c in cpus)
        if mine:
            nodes[int(folder.name.removeprefix("node"))] = mine
    return nodes or {0: cpus}


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and its ancestors: v2, then v1."""
    found = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if names:
            if controller not in names.split(","):
                continue
            base /= controller
        at = Path(path.lstrip("/"))
        found += [base / part for part in (at, *at.parents)]
    return found or [root / "sys/fs/cgroup"]


def _quota(root: Path) -> float:
    """The tightest limit on the way up, in processors."""
    limits = []
    for folder in _groups(root, "cpu"):
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        if not period:
            quota = read_text(folder / "cpu.cfs_quota_us")
            period = read_text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=0.0)


def _memory(root: Path) -> int:
    total = _field(read_text(root / "proc/meminfo"), "MemTotal").removesuffix(" kB")
    limits = [int(total) * 1024] if total.isdigit() else []
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = read_text(folder / name)
            if value.isdigit() and int(value) > 0:
                limits.append(int(value))
    return min(limits, default=0)
