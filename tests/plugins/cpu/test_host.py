"""What the machine is, read from files that a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplane_cpu.host import parse_cpus, read_host

AMX = "fpu avx2 fma avx512f avx512bw avx512vl avx512_bf16 amx_tile amx_bf16 amx_int8"


def machine(root: Path, flags: str = AMX, files: dict[str, str] | None = None) -> Path:
    content = {
        "proc/cpuinfo": f"model name\t: Acme 9000\nflags\t\t: {flags}\n",
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
        **(files or {}),
    }
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def topology(siblings: dict[int, str], nodes: dict[int, str]) -> dict[str, str]:
    cpu = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    node = "sys/devices/system/node/node{}/cpulist"
    return {cpu.format(c): text for c, text in siblings.items()} | {
        node.format(n): text for n, text in nodes.items()
    }


@pytest.mark.parametrize(
    "flags, arch, bf16",
    [
        (AMX, "amx", True),
        ("avx2 fma avx512f avx512bw avx512vl avx512_bf16", "avx512_bf16", True),
        ("avx2 fma avx512f avx512bw avx512vl", "avx512", False),
        ("avx2 fma", "avx2", False),
    ],
)
def test_arch_is_the_best_level_whose_flags_are_all_there(
    flags: str, arch: str, bf16: bool, tmp_path: Path
) -> None:
    host = read_host(machine(tmp_path, flags), frozenset((0, 1)))
    assert (host.arch, host.has_bf16, host.model) == (arch, bf16, "Acme 9000")


def test_siblings_count_as_one_core_and_nodes_hold_only_allowed_processors(tmp_path: Path) -> None:
    files = topology({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, {0: "0-1,4", 1: "5-9", 2: "10-11"})
    host = read_host(machine(tmp_path, files=files), frozenset((0, 1, 4, 5)))
    assert host.cores == ((0, 4), (1, 5)) and host.num_cores == 2
    assert host.nodes == {0: (0, 1, 4), 1: (5,)}


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/kube/pod\n",
            "sys/fs/cgroup/kube/pod/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kube/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/kube/pod/memory.max": "1073741824\n",
            "sys/fs/cgroup/kube/memory.max": "max\n",
        },
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/pod\n3:memory:/pod\n",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "1073741824\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_the_tightest_limit_on_the_way_up_holds(files: dict[str, str], tmp_path: Path) -> None:
    host = read_host(machine(tmp_path, files=files), frozenset(range(8)))
    assert (host.quota, host.memory_bytes, host.num_cores) == (2.5, 1 << 30, 2)


def test_without_limits_memory_is_all_there_is(tmp_path: Path) -> None:
    host = read_host(machine(tmp_path), frozenset((0,)))
    assert (host.quota, host.memory_bytes) == (0.0, 16 << 30)


def test_a_machine_that_says_nothing_is_still_a_host(tmp_path: Path) -> None:
    host = read_host(tmp_path, frozenset((3,)))
    assert (host.num_cores, host.memory_bytes, host.flags) == (1, 0, frozenset())


def test_parse_cpus_reads_the_kernels_lists() -> None:
    assert parse_cpus("0-3,8\n") == (0, 1, 2, 3, 8)
    assert parse_cpus("") == ()
