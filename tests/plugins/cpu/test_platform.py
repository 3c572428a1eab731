"""Laws of the cpu platform's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig, ModelShape
from inferplane_cpu.native import library
from inferplane_cpu.platform import Cpu
from inferplane_cpu.sizes import parse_bytes

SHAPE = ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 100, 512, "bfloat16")
CONFIG = EngineConfig("model")
NATIVE = Path(library.__file__).parent


def platform(root: Path, flags: str, memory_kib: int = 16 << 20) -> Cpu:
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(f"model name : Acme\nflags : {flags}\n")
    (root / "proc/meminfo").write_text(f"MemTotal: {memory_kib} kB\n")
    return Cpu(root, frozenset((0, 1)))


def test_bfloat16_is_offered_where_the_processor_or_the_kernels_have_it(tmp_path: Path) -> None:
    kernels = "avx2 fma f16c"
    for name, flags, has_it in (
        ("new", f"{kernels} avx512f avx512bw avx512vl avx512_bf16", True),
        ("old", kernels, (NATIVE / "libinferplane_cpu_avx2.so").exists()),
        ("bare", "avx2 fma", False),
    ):
        cpu = platform(tmp_path / name, flags)
        dtypes = cpu.capabilities(cpu.probe({}), None).compute_dtypes
        assert dtypes == (("bfloat16", "float32") if has_it else ("float32",))


def test_the_probe_says_what_it_found(tmp_path: Path) -> None:
    probe = platform(tmp_path, "avx2 fma").probe({})
    assert probe.ok and probe.score == 10 and probe.device_count == 2
    assert probe.reason == "Acme, 2 cores, avx2, 16.0GiB, no compiled kernels"


def test_the_probe_names_the_kernels_that_run(tmp_path: Path) -> None:
    vectors = "avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16"
    plain = platform(tmp_path / "plain", vectors).probe({})
    tiles = platform(tmp_path / "tiles", vectors + " amx_tile amx_bf16 amx_int8").probe({})
    assert plain.reason.endswith(("kernels for avx512", "no compiled kernels"))
    assert tiles.reason.endswith(("kernels for avx512 and amx", "no compiled kernels"))


def test_resolve_settles_in_one_round(tmp_path: Path) -> None:
    cpu = platform(tmp_path, "avx2 fma")
    caps = cpu.capabilities(cpu.probe({}), SHAPE)
    changes = cpu.resolve(CONFIG, caps, SHAPE)
    assert [change.key for change in changes] == ["memory_fraction"]
    assert cpu.resolve(replace(CONFIG, memory_fraction=1.0), caps, SHAPE) == ()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"kv_memory": "lots"}, "such as 4GiB"),
        ({"kv_memory": "17GiB"}, "16.0GiB in all"),
        ({"threads": "3"}, "may use 2 processors"),
        ({"amx": "on"}, "expected auto or off"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(
    options: dict[str, str], said: str, tmp_path: Path
) -> None:
    cpu = platform(tmp_path, "avx2 fma")
    caps = cpu.capabilities(cpu.probe({}), SHAPE)
    with pytest.raises(ConfigError, match=said):
        cpu.resolve(replace(CONFIG, options=options), caps, SHAPE)


def test_more_ranks_than_cores_are_refused(tmp_path: Path) -> None:
    cpu = platform(tmp_path, "avx2 fma")
    with pytest.raises(ConfigError, match="2 cores"):
        cpu.resolve(
            replace(CONFIG, tensor_parallel=3), cpu.capabilities(cpu.probe({}), SHAPE), SHAPE
        )


def test_one_rank_runs_inside_the_engine_and_several_in_workers(tmp_path: Path) -> None:
    cpu = platform(tmp_path, "avx2 fma")
    caps = cpu.capabilities(cpu.probe({}), SHAPE)
    assert cpu.topology(CONFIG, caps).placement == "inline"
    two = cpu.topology(replace(CONFIG, tensor_parallel=2), caps)
    assert (two.placement, two.processes) == ("worker", 2)


@pytest.mark.parametrize(
    "text, amount",
    [("4GiB", 4 << 30), ("512 MB", 512 << 20), ("1.5g", 3 << 29), ("4096", 4096), ("8k", 8192)],
)
def test_amounts_of_memory_as_people_write_them(text: str, amount: int) -> None:
    assert parse_bytes("kv_memory", text) == amount
