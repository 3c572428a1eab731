"""How many threads compute, and on which processors; knows nothing of what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inferplane.errors import ConfigError
from inferplane_cpu.host import Host

__all__ = ["ThreadPlan", "plan_threads"]

_SPARE_FROM = 4
"""From so many cores on one is left to the front end and the engine's own thread."""


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """The compute threads of one rank."""

    count: int
    cpus: tuple[int, ...]
    """Where they may run: one processor a thread, siblings left idle; () = anywhere."""

    def environment(self) -> Mapping[str, str]:
        """What must stand in the environment before torch is imported.

        Idle OpenMP threads must sleep soon: the front end needs the core they would spin on.
        """
        return {
            "OMP_NUM_THREADS": str(self.count),
            "MKL_NUM_THREADS": str(self.count),
            "OMP_DYNAMIC": "false",
            "GOMP_SPINCOUNT": "20000",
        }


def plan_threads(host: Host, asked: str = "", rank: int = 0, ranks: int = 1) -> ThreadPlan:
    """Cores of one NUMA node for each rank; a rank alone stays on the node with most of them.

    `asked` is the option `threads` ("" = decide here). Raises ConfigError when it is not a number
    from 1 to the processors there are.
    """
    if asked:
        if not asked.isdigit() or not 1 <= int(asked) <= len(host.cpus):
            raise ConfigError(
                f"option threads={asked!r}: this process may use {len(host.cpus)} processors"
            )
        if int(asked) > host.num_cores:
            return ThreadPlan(int(asked), ())
    cores = _share(host, rank, ranks)
    granted = max(host.num_cores // ranks, 1)
    count = min(len(cores), granted)
    if granted >= _SPARE_FROM:
        count = min(count, granted - 1)
    if asked:
        count = min(int(asked), len(cores))
    shared = 0 < host.quota < len(host.cores)
    if shared or count == len(host.cpus):
        # Under a quota others use the same processors, and with all of them in use pinning would
        # only forbid the kernel to make room.
        return ThreadPlan(count, ())
    return ThreadPlan(count, tuple(core[0] for core in cores[len(cores) - count :]))


def _share(host: Host, rank: int, ranks: int) -> list[tuple[int, ...]]:
    """Physical cores of one rank: a node each while nodes last, then equal parts."""
    by_node = [[core for core in host.cores if core[0] in cpus] for cpus in host.nodes.values()]
    by_node = sorted((cores for cores in by_node if cores), key=len, reverse=True)
    if ranks <= len(by_node):
        return by_node[rank]
    every = list(host.cores)
    share = max(len(every) // ranks, 1)
    first = min(rank * share, len(every) - share)
    return every[first : first + share]
