"""One machine of each instruction set that this processor has, and one of emulated matrix tiles."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferplane.errors import UnsupportedError
from inferplane_cpu.native.library import find_library, load_library
from inferplane_cpu.native.machine import Machine

AVX2 = ("avx2", "fma", "f16c")
CSRC = Path(__file__).resolve().parents[3] / "plugins" / "cpu" / "csrc"


def processor_flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []


class Compiler:
    """g++ as the wheel's build calls it, into folders of the test run."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.recipe = tomllib.loads((CSRC / "variants.toml").read_text())

    def compile(self, out: Path, flags: list[str], sources: list[Path]) -> Path:
        """One shared library, or with -c an object; the headers of the kernels are found."""
        options = [*self.recipe["options"], *flags, "-I", str(CSRC)]
        if "-c" in flags:
            options.remove("-shared")
        command = [self.program, *options, "-o", str(out), *map(str, sources)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return out

    def source(self, name: str) -> Path:
        """A file of the kernels."""
        return CSRC / name

    def emulated(self, folder: Path) -> Path:
        """All kernels with emulated tiles, for the vectors that this processor has."""
        name = find_library(processor_flags()).name
        variant = name.removesuffix(".so").rpartition("_")[2]
        tiles = self.recipe["tiles"]
        flags = [*self.recipe["variants"][variant], "-DIP_TILES", "-DIP_TILE_EMULATION", "-O1"]
        sources = [CSRC / source for source in (*self.recipe["sources"], *tiles["sources"])]
        return self.compile(folder / name, flags, sources)


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    program = shutil.which("g++")
    if program is None:
        pytest.skip("no g++ to compile kernels with")
    return Compiler(program)


@pytest.fixture(scope="session")
def emulated_tiles(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library whose tiles are emulated."""
    try:
        return compiler.emulated(tmp_path_factory.mktemp("emulated"))
    except UnsupportedError as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["best", "avx2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    try:
        library = load_library(processor_flags() if request.param == "best" else AVX2)
    except UnsupportedError as missing:
        pytest.skip(str(missing))
    machine = Machine(library, (-1, -1))
    yield machine
    machine.close()


@pytest.fixture
def tiled(emulated_tiles: Path) -> Iterator[Machine]:
    """A machine that multiplies many rows by emulated tiles."""
    machine = Machine(load_library(processor_flags(), emulated_tiles.parent), (-1, -1), tiles=True)
    yield machine
    machine.close()


@pytest.fixture
def untiled(emulated_tiles: Path) -> Iterator[Machine]:
    """The same library without its tiles."""
    machine = Machine(load_library(processor_flags(), emulated_tiles.parent), (-1, -1))
    yield machine
    machine.close()
