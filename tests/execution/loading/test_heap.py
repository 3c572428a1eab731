"""Memory that a load dropped goes back to the system, not only to the C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from inferplane.loading.heap import Heap

PROGRAM = """
from pathlib import Path
from inferplane.loading.heap import Heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

heap = Heap()
held = [bytearray(16 << 10) for _ in range(8192)]  # 128 MiB, in pieces that come from the heap
kept = held[::128]  # between what is dropped, so that the heap cannot shrink at its end
del held
before = resident()
{call}
print(before - resident())
"""


def given_back(call: str) -> int:
    """Bytes that left a fresh process by `call`."""
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_dropped_between_what_stays_leaves_the_process() -> None:
    assert given_back("heap.release()") > 100 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_weights_that_pass_are_counted_until_a_release_is_worth_it() -> None:
    assert given_back("heap.passed(1 << 20)") < 20 << 20
    assert given_back("heap.passed(40 << 20); heap.passed(40 << 20)") > 100 << 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    Heap().release()
