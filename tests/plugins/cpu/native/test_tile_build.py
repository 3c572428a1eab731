"""What the compiler makes of the kernels for tiles; nothing here runs an AMX instruction."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CONFIG = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[7] * 8, *[0] * 8])
"""Palette 1, eight tiles of 7 rows of 64 bytes."""


@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_the_kernels_are_compiled_to_instructions_on_tiles(
    compiler: Any, level: str, tmp_path: Path
) -> None:
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump")
    flags = [*compiler.recipe["variants"]["avx512"], *compiler.recipe["tiles"]["flags"]]
    made = compiler.compile(
        tmp_path / "tiles.o", [*flags, level, "-c"], [compiler.source("tile_matmul.cpp")]
    )
    done = subprocess.run(
        [objdump, "-dr", "--no-show-raw-insn", made], capture_output=True, text=True, check=True
    )
    for instruction in (
        "tdpbf16ps %tmm6,%tmm4,%tmm0",
        "tdpbf16ps %tmm7,%tmm5,%tmm3",
        "tdpbsud %tmm6,%tmm4,%tmm0",
        "tdpbsud %tmm7,%tmm5,%tmm3",
        "tileloadd",
        "tilestored",
        "tilezero",
        "tilerelease",
    ):
        assert instruction in done.stdout, instruction
    configures = done.stdout.partition("take_tilesEv>:")[2].partition("\n\n")[0]
    operand = re.search(r"ldtilecfg (.*)", configures)
    assert operand and "%rsp" not in operand[1] and "%rbp" not in operand[1]
    assert ".rodata" in configures  # a constant: no store to it can be lost


@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_all_bytes_of_a_configuration_on_the_stack_are_written(
    compiler: Any, level: str, tmp_path: Path
) -> None:
    sources = [HERE / "stack_config.cpp"]
    path = compiler.compile(tmp_path / "stack.so", ["-mamx-tile", level], sources)
    assert seen(path) == CONFIG


def test_without_the_guard_the_test_above_would_see_the_loss(compiler: Any, tmp_path: Path) -> None:
    version = subprocess.run(
        [compiler.program, "-dumpversion"], capture_output=True, text=True, check=True
    )
    if version.stdout.split(".")[0].strip() != "12":
        pytest.skip("GCC 12 is known to delete the stores")
    flags = ["-mamx-tile", "-O2", "-DUNGUARDED"]
    path = compiler.compile(tmp_path / "bare.so", flags, [HERE / "stack_config.cpp"])
    assert seen(path) != CONFIG


def seen(path: Path) -> bytes:
    library = ctypes.CDLL(str(path))
    library.configured.restype = ctypes.POINTER(ctypes.c_uint8 * 64)
    return bytes(library.configured(7).contents)
