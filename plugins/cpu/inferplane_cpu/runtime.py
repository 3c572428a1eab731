"""The processor as a device: thread policy at start, KV budget as memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import torch

from inferplane.errors import UnsupportedError
from inferplane.execution.host_runtime import HostRuntime
from inferplane_cpu.native.library import load_library
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.native.tiles import NO_TILES, choose_tiles
from inferplane_cpu.threads import ThreadPlan

__all__ = ["CpuRuntime"]

_logger = logging.getLogger(__name__)


class CpuRuntime(HostRuntime):
    """Made once in the process that computes, before any tensor."""

    def __init__(
        self, threads: ThreadPlan, kv_bytes: int, flags: Iterable[str] = (), amx: str = ""
    ) -> None:
        """Binds this process to the plan's processors and torch to its thread count.

        `flags`: the processor's, which decide which compiled kernels it gets; `amx`: the option.
        """
        super().__init__(kv_bytes)
        self.threads = threads
        self.machine: Machine | None = None
        """Threads of the compiled kernels; None where there are none."""
        self.tiles = NO_TILES
        """Whether those for many rows use AMX, and if not, why."""
        self._before = os.sched_getaffinity(0), torch.get_num_threads()
        if threads.cpus:  # before the first parallel region: its threads inherit the mask
            os.sched_setaffinity(0, threads.cpus)
        torch.set_num_threads(threads.count)
        try:
            library = load_library(flags)
        except UnsupportedError as reason:
            _logger.warning("running op by op in torch: %s", reason)
        else:
            self.tiles = choose_tiles(flags, library, amx)
            if self.tiles.refused:
                _logger.warning("AMX stays unused: %s", self.tiles.refused)
            kernels = library.ip_isa().decode() + (" and AMX tiles" if self.tiles.on else "")
            _logger.info("compiled kernels: %s", kernels)
            cpus = threads.cpus or (-1,) * threads.count
            self.machine = Machine(library, cpus, self.tiles.on)

    def close(self) -> None:
        """Leave the process as it was: the offline `LLM` computes inside the caller's."""
        if self.machine is not None:
            self.machine.close()
            self.machine = None
        cpus, count = self._before
        os.sched_setaffinity(0, cpus)
        torch.set_num_threads(count)
