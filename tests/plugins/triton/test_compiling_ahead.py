"""Kernels that a rehearsal noted are compiled by other processes, and found by the real launch.

A driver that only counts launches stands in for the device; compiler and cache are Triton's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from inferplane.execution.artifact_cache import DiskCache  # noqa: E402
from inferplane_triton.compiling.jobs import Job, is_stored, stored_under  # noqa: E402
from inferplane_triton.compiling.pool import CompilePool  # noqa: E402
from inferplane_triton.compiling.rehearsal import Rehearsal  # noqa: E402
from inferplane_triton.device.activation import gated_rows  # noqa: E402
from inferplane_triton.device.norm import rms_norm_rows  # noqa: E402
from inferplane_triton.kernels.norm import rms_norm  # noqa: E402

DEVICE = Path(import_module("inferplane_triton.device").__path__[0])
TARGET = ("cuda", 90, 32)
ROUNDED = Job(
    "inferplane_triton.device.sampling",
    "argmax_rows",
    {"parts": "*i64", "out": "*i32", "SPLITS": "constexpr", "BLOCK": "constexpr"},
    {(2,): 19, (3,): 32},
    {(0,): [["tt.divisibility", 16]], (1,): [["tt.divisibility", 16]]},
    {"num_warps": 1},
    TARGET,
)


class Launcher:
    """Counts instead of launching."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = source.name

    def __call__(self, *_: object) -> None:
        CountingDriver.launched.append(self.name)


class CountingDriver:
    """A device of `TARGET` without memory and without programs."""

    launched: ClassVar[list[str]] = []
    launcher_cls = Launcher

    def __init__(self) -> None:
        self.utils = self

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*TARGET)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}

    def load_binary(self, *_: object) -> tuple[int, int, int, int, int]:
        return 1, 1, 32, 0, 1024


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of what was launched; Triton's cache is a new folder."""
    CountingDriver.launched = []
    for kernel in (rms_norm_rows, gated_rows):
        kernel.device_caches.clear()
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path / "triton")
        monkeypatch.setattr(triton.runtime.driver, "_active", CountingDriver())
        yield CountingDriver.launched
        for kernel in (rms_norm_rows, gated_rows):
            kernel.device_caches.clear()


def norms(*sizes: int) -> None:
    for size in sizes:
        rms_norm(torch.ones(3, size), torch.ones(size), 1e-5)


def test_a_rehearsed_kernel_is_compiled_elsewhere_and_then_only_loaded(
    counting: list[str], tmp_path: Path
) -> None:
    rehearsal = Rehearsal(DiskCache(tmp_path / "programs"), processes=1)
    with rehearsal.run(last=False) as wanted:
        norms(128, 128)
    assert wanted and rehearsal.wanted
    with rehearsal.run(last=True):
        norms(128, 512)
    assert counting == [] and not rehearsal.wanted
    stats = rehearsal.stats
    assert (stats.compiled, stats.failed) == (2, 0) and stats.worked_s > 0
    hits = []
    triton.knobs.compilation.listener = lambda **told: hits.append(told["cache_hit"])
    try:
        norms(128, 512)
    finally:
        triton.knobs.compilation.listener = None
    assert hits == [True, True] and counting == ["rms_norm_rows"] * 2


def test_a_start_like_an_earlier_one_is_not_rehearsed(counting: list[str], tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "programs")
    with Rehearsal(cache, processes=1).run(last=True):
        norms(128)
    again = Rehearsal(cache, processes=1)
    with again.run(last=True) as wanted:
        assert not wanted
        norms(128)
    assert counting == ["rms_norm_rows"] and again.stats.kernels == 0
    triton.knobs.cache.dir = str(tmp_path / "emptied")
    fresh = Rehearsal(cache, processes=1)
    assert fresh.wanted
    fresh.close()


def test_what_cannot_be_compiled_ahead_is_counted_and_compiled_where_it_is_needed(
    counting: list[str], tmp_path: Path
) -> None:
    cache = DiskCache(tmp_path / "programs")
    rehearsal = Rehearsal(cache, processes=1)
    with rehearsal.run(last=True):
        norms(128)
        rehearsal._pool.close()  # type: ignore[union-attr]
    assert rehearsal.stats.failed == 1 and rehearsal.stats.compiled == 0
    norms(128)
    assert counting == ["rms_norm_rows"]
    left = Rehearsal(cache, processes=1)
    assert left.wanted
    left.close()


def test_a_process_that_dies_is_replaced_and_errors_come_back_in_words(counting: list[str]) -> None:
    pool = CompilePool(1)
    pool._children[0].kill()
    with pytest.raises(RuntimeError, match="a compiling process ended"):
        pool.submit(ROUNDED).result()
    wrong = Job(ROUNDED.module, "no_such_kernel", {}, {}, {}, {}, TARGET)
    with pytest.raises(RuntimeError, match="no_such_kernel"):
        pool.submit(wrong).result()
    assert pool.submit(ROUNDED).result() > 0 and is_stored(*stored_under(ROUNDED))
    pool.close()
    pool.close()


def test_no_kernel_has_a_compile_time_global() -> None:
    """With one inside a called function Triton's key depends on what was hashed before it, so that
    one process would not find what another compiled."""
    for path in sorted(DEVICE.glob("*.py")):
        module = import_module(f"inferplane_triton.device.{path.stem}")
        held = [n for n, x in vars(module).items() if isinstance(x, triton.language.constexpr)]
        assert held == [], path.name


def test_a_compiling_process_needs_no_torch() -> None:
    program = (
        "import sys, inferplane_triton.compiling.jobs, inferplane_triton.device.decode, "
        "inferplane_triton.device.draw; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
