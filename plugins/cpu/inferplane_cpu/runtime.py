"""The processor as a device: thread policy at start, KV budget as memory."""

from __future__ import annotations

import os

import torch

from inferplane.execution.host_runtime import HostRuntime
from inferplane_cpu.threads import ThreadPlan

__all__ = ["CpuRuntime"]


class CpuRuntime(HostRuntime):
    """Made once in the process that computes, before any tensor."""

    def __init__(self, threads: ThreadPlan, kv_bytes: int) -> None:
        """Binds this process to the plan's processors and torch to its thread count."""
        super().__init__(kv_bytes)
        self.threads = threads
        self._before = os.sched_getaffinity(0), torch.get_num_threads()
        if threads.cpus:  # before the first parallel region: its threads inherit the mask
            os.sched_setaffinity(0, threads.cpus)
        torch.set_num_threads(threads.count)

    def close(self) -> None:
        """Leave the process as it was: the offline `LLM` computes inside the caller's."""
        cpus, count = self._before
        os.sched_setaffinity(0, cpus)
        torch.set_num_threads(count)
