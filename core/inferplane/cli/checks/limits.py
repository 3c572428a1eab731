"""Checks of what the system allows: memory, cores, files, shared memory, C library, clock."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path

import psutil

import inferplane
from inferplane.cli.checks.finding import Finding, Machine, fail, ok, skip, warn
from inferplane.cli.terminal import megabytes
from inferplane.probing import at_least, read_text

__all__ = ["c_library", "clock", "cores", "memory", "open_files", "shared_memory"]

_LEAST_MEMORY_BYTES = 1 << 30
"""What the default model takes: 0.3 GiB of weights, a small KV cache, torch itself."""
_LEAST_OPEN_FILES = 1024
_LEAST_SHARED_BYTES = 1 << 30
_OLDEST_C_LIBRARY = "2.28"
"""What the wheels of torch are built for."""


def memory(machine: Machine) -> Finding:
    """There is memory for the default model, inside this container's limit too."""
    free = psutil.virtual_memory().available
    limit = _cgroup_number(machine, "memory.max", "memory/memory.limit_in_bytes")
    if limit is not None and limit < psutil.virtual_memory().total:
        used = _cgroup_number(machine, "memory.current", "memory/memory.usage_in_bytes") or 0
        free = min(free, limit - used)
        seen = f"{megabytes(free)} free below this container's limit of {megabytes(limit)}"
        fix = "raise the container's memory limit (docker run --memory …)"
    else:
        seen, fix = f"{megabytes(free)} free", "end other programs, or take a larger machine"
    if free < _LEAST_MEMORY_BYTES:
        return fail(f"{seen}; the default model needs {megabytes(_LEAST_MEMORY_BYTES)}", fix)
    return ok(seen)


def cores(machine: Machine) -> Finding:
    """The container's CPU quota is not below the cores that threads would be made for."""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota_cores(machine)
    if quota is not None and visible and quota < visible:
        return warn(
            f"{visible} cores are visible, the quota is {quota:g}: threads will be stopped often",
            f"export OMP_NUM_THREADS={max(1, int(quota))}, or raise the quota "
            "(docker run --cpus …)",
        )
    return ok(f"{visible} cores")


def _quota_cores(machine: Machine) -> float | None:
    fields = read_text(machine.root / "sys/fs/cgroup/cpu.max").split()
    if len(fields) == 2 and fields[0].isdigit():
        return int(fields[0]) / int(fields[1])
    folder = machine.root / "sys/fs/cgroup/cpu"
    quota, period = (read_text(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _cgroup_number(machine: Machine, *names: str) -> int | None:
    for name in names:
        text = read_text(machine.root / "sys/fs/cgroup" / name)
        if text.isdigit():
            return int(text)
    return None


def open_files(machine: Machine) -> Finding:
    """Enough file descriptors for connections."""
    line = next(
        (
            line.split()
            for line in read_text(machine.root / "proc/self/limits").splitlines()
            if line.startswith("Max open files")
        ),
        None,
    )
    if line is None or not line[3].isdigit():
        return skip("no limit on open files is told here")
    if int(line[3]) < _LEAST_OPEN_FILES:
        return warn(f"at most {line[3]} open files: few clients at once", "ulimit -n 65536")
    return ok(f"at most {line[3]} open files")


def shared_memory(machine: Machine) -> Finding:
    """Room for collectives between processes, where several devices share a model."""
    folder = machine.root / "dev/shm"
    if not folder.is_dir():
        return skip("no /dev/shm here")
    size = shutil.disk_usage(folder).total
    if size < _LEAST_SHARED_BYTES:
        return warn(
            f"/dev/shm has {megabytes(size)}; --tensor-parallel needs "
            f"{megabytes(_LEAST_SHARED_BYTES)}",
            "docker run --shm-size=1g …, or: mount -o remount,size=1g /dev/shm",
        )
    return ok(f"/dev/shm has {megabytes(size)}")


def c_library(machine: Machine) -> Finding:
    """The C library is new enough for the wheels of torch."""
    name, version = platform.libc_ver()
    if name != "glibc":
        return skip(f"no glibc here ({name or platform.system()})")
    if not at_least(version, _OLDEST_C_LIBRARY):
        return fail(
            f"glibc {version}, the wheels of torch need {_OLDEST_C_LIBRARY}",
            "use a newer system or container image",
        )
    return ok(f"glibc {version}")


def clock(machine: Machine) -> Finding:
    """The clock is not before this installation: certificates would be refused."""
    installed = Path(inferplane.__file__).stat().st_mtime
    if time.time() < installed - 86400:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        return fail(f"the clock says {today}, before Inferplane was installed", "set the clock")
    return ok("the clock is plausible")
