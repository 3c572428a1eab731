"""One machine of each instruction set that this processor has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inferplane.errors import UnsupportedError
from inferplane_cpu.native.library import load_library
from inferplane_cpu.native.machine import Machine

AVX2 = ("avx2", "fma", "f16c")


def processor_flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []


@pytest.fixture(params=["best", "avx2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    try:
        library = load_library(processor_flags() if request.param == "best" else AVX2)
    except UnsupportedError as missing:
        pytest.skip(str(missing))
    machine = Machine(library, (-1, -1))
    yield machine
    machine.close()
