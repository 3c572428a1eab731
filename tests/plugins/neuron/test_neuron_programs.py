"""Programs compiled ahead of time: nothing else runs, and the cache survives what may happen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inferplane.errors import DeviceError
from inferplane.execution.artifact_cache import DiskCache
from inferplane.interfaces import Bucket
from inferplane_neuron.emulated import ExportDriver
from inferplane_neuron.programs import Programs

SMALL, LARGE = (Bucket("decode", n, n, 1, rectangular=True) for n in (2, 4))
ROWS = {SMALL: 2, LARGE: 4}


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x * 2,)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x * 2,) if bool(x.sum() > 0) else (x,)


class CountingDriver(ExportDriver):
    def __init__(self) -> None:
        super().__init__()
        self.compiled = 0

    def compile(self, module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
        self.compiled += 1
        super().compile(module, example, path)


def example(bucket: Bucket) -> tuple[Tensor, ...]:
    return (torch.ones(ROWS[bucket], 3),)


def prepared(folder: Path, driver: CountingDriver, version: str = "") -> Programs:
    programs = Programs(Doubled(), driver, DiskCache(folder), version)
    for bucket in (SMALL, LARGE):
        programs.prepare(bucket, [example(bucket)])
    programs.seal()
    return programs


def test_each_bucket_has_one_program_and_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    first, second = CountingDriver(), CountingDriver()
    assert prepared(tmp_path, first).stats().compiles == first.compiled == 2
    programs = prepared(tmp_path, second)
    assert programs.stats().cache_hits == 2 and second.compiled == 0
    assert torch.equal(programs.run(LARGE, [example(LARGE)])[0][0], torch.full((4, 3), 2.0))


def test_programs_of_other_code_are_compiled_anew(tmp_path: Path) -> None:
    first, other, again = CountingDriver(), CountingDriver(), CountingDriver()
    for driver, version in ((first, "1"), (other, "2"), (again, "1")):
        prepared(tmp_path, driver, version)
    assert (first.compiled, other.compiled, again.compiled) == (2, 2, 0)


def test_a_step_of_another_bucket_or_dtype_is_refused(tmp_path: Path) -> None:
    programs = prepared(tmp_path, CountingDriver())
    with pytest.raises(DeviceError, match="other shapes or dtypes"):
        programs.run(SMALL, [example(LARGE)])
    with pytest.raises(DeviceError, match="other shapes or dtypes"):
        programs.run(SMALL, [example(SMALL), example(LARGE)])
    with pytest.raises(DeviceError, match="other shapes or dtypes"):
        programs.run(SMALL, [(example(SMALL)[0].to(torch.int64),)])
    with pytest.raises(DeviceError, match="no program was compiled"):
        programs.run(Bucket("decode", 8, 8, 1, rectangular=True), [example(SMALL)])


def test_the_program_itself_checks_its_shapes(tmp_path: Path) -> None:
    ExportDriver().compile(Doubled(), example(SMALL), tmp_path / "p")
    with pytest.raises(AssertionError, match="Guard failed"):
        ExportDriver().load(tmp_path / "p")([example(LARGE)])


def test_a_branch_on_a_value_fails_while_compiling_and_leaves_no_entry(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    with pytest.raises(DeviceError, match=r"compiling decode-t2.* failed"):
        Programs(Branching(), ExportDriver(), cache).prepare(SMALL, [example(SMALL)])
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_damaged_entry_is_compiled_again_once(tmp_path: Path) -> None:
    prepared(tmp_path, CountingDriver())
    (entry,) = tmp_path.glob(f"{SMALL}-*.program")
    entry.write_bytes(b"half of a program")
    again, after = CountingDriver(), CountingDriver()
    prepared(tmp_path, again)
    prepared(tmp_path, after)
    assert (again.compiled, after.compiled) == (1, 0)


def test_a_start_killed_while_compiling_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    killed = """
import os, signal, sys
from pathlib import Path
from inferplane.execution.artifact_cache import DiskCache
def write(path):
    path.write_bytes(b"half of a program")
    os.kill(os.getpid(), signal.SIGKILL)
DiskCache(Path(sys.argv[1])).store(sys.argv[2], write)
"""
    prepared(tmp_path / "elsewhere", CountingDriver())
    (entry,) = (tmp_path / "elsewhere").glob(f"{SMALL}-*.program")
    tmp_path = tmp_path / "here"
    command = [sys.executable, "-c", killed, str(tmp_path), entry.name]
    assert subprocess.run(command, env=dict(os.environ)).returncode == -9
    assert list(tmp_path.iterdir()), "it left its lock and half of an entry"
    driver = CountingDriver()
    programs = prepared(tmp_path, driver)
    assert driver.compiled == 2
    assert torch.equal(programs.run(SMALL, [example(SMALL)])[0][0], torch.full((2, 3), 2.0))
