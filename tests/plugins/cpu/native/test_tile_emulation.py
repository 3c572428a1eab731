"""Emulated operations on tiles against their definition in Intel's manual, written in numpy."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CALLS = Path(__file__).parent / "tile_calls.cpp"
SHAPES = ((5, 12, 7, 20), (16, 64, 16, 64), (1, 4, 1, 4))
"""Rows and bytes a row of c, and bytes a row of a (rows of b follow)."""


@pytest.fixture(scope="session")
def built(compiler: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calls") / "calls.so"
    return compiler.compile(out, ["-mfma", "-O1", "-DIP_TILE_EMULATION"], [CALLS])  # type: ignore[no-any-return]


@pytest.fixture
def calls(built: Path) -> Iterator[CDLL]:
    library = CDLL(str(built))
    yield library
    library.release()


def configuration(*tiles: tuple[int, int]) -> np.ndarray[Any, Any]:
    """64 bytes for tiles of (rows, bytes a row)."""
    made = np.zeros(64, np.uint8)
    made[0] = 1
    for t, (rows, row_bytes) in enumerate(tiles):
        made[16 + 2 * t], made[48 + t] = row_bytes, rows
    return made


def pointer(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def put(calls: CDLL, tile: int, array: np.ndarray[Any, Any]) -> None:
    calls.load(tile, pointer(array), ctypes.c_int64(array.strides[0]))


def whole(calls: CDLL, tile: int) -> np.ndarray[Any, Any]:
    """The tile's rows in a frame of nines, which must stay."""
    out = np.full((17, 80), 9, np.uint8)
    calls.store(tile, pointer(out), ctypes.c_int64(80))
    return out


def flushed(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    tiny = np.abs(x) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), x), x).astype(np.float32)


def bf16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bits of float32 numbers, cut off."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def numbers(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return flushed((bits.astype(np.uint32) << 16).view(np.float32))


def defined(c: Any, a: Any, b: Any) -> np.ndarray[Any, Any]:
    """TDPBF16PS: c f32[M,N], a bf16[M,2K], b bf16[K,2N]."""
    a, b = numbers(a), numbers(b)
    sums = np.zeros((2, *c.shape), np.float32)
    for k in range(b.shape[0]):
        for odd in (0, 1):  # float64 holds these products and all but freak sums exactly
            product = a[:, 2 * k + odd, None].astype(np.float64) * b[None, k, odd::2]
            sums[odd] = flushed((product + sums[odd]).astype(np.float32))
    return flushed(flushed(c) + flushed(sums[0] + sums[1]))


@pytest.mark.parametrize("scale", [1.0, 1e-19], ids=["ordinary", "denormal products"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_bf16_are_those_of_the_manual(
    calls: CDLL, shape: tuple[int, ...], scale: float
) -> None:
    m, c_bytes, k, _ = shape
    make = np.random.default_rng(k)
    calls.configure(pointer(configuration((m, c_bytes), (m, 4 * k), (k, c_bytes))))
    c = make.standard_normal((m, c_bytes // 4)).astype(np.float32) * np.float32(scale**2)
    a, b = (bf16(make.standard_normal(s) * scale) for s in ((m, 2 * k), (k, c_bytes // 2)))
    a[0, 0] = 0x0001  # a denormal input
    for tile, array in enumerate((c, a, b)):
        put(calls, tile, array)
    calls.dot_bf16(0, 1, 2)
    found = whole(calls, 0)
    assert found[:m, :c_bytes].tobytes() == defined(c, a, b).tobytes()
    assert (found[m:] == 9).all() and (found[:, c_bytes:] == 9).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_bytes_are_exact_and_wrap(calls: CDLL, shape: tuple[int, ...]) -> None:
    m, c_bytes, k, _ = shape
    make = np.random.default_rng(k)
    calls.configure(pointer(configuration((m, c_bytes), (m, 4 * k), (k, c_bytes))))
    c = make.integers(2**31 - 9, 2**31, (m, c_bytes // 4)).astype(np.int32)
    a = make.integers(-128, 128, (m, 4 * k)).astype(np.int8)
    b = make.integers(0, 256, (k, c_bytes)).astype(np.uint8)
    for tile, array in enumerate((c, a, b)):
        put(calls, tile, array)
    calls.dot_su(0, 1, 2)
    words = b.reshape(k, -1, 4).transpose(0, 2, 1).reshape(4 * k, -1).astype(np.int64)
    expected = (c + a.astype(np.int64) @ words).astype(np.int32)
    assert whole(calls, 0)[:m, :c_bytes].tobytes() == expected.tobytes()


def test_what_lies_beyond_a_small_tile_is_zero_when_it_grows(calls: CDLL) -> None:
    """Configuring clears; loading clears what it does not fill."""
    ones = np.ones((16, 64), np.uint8)
    calls.standard()
    put(calls, 3, ones)
    calls.standard()
    assert not whole(calls, 3)[:16, :64].any()
    put(calls, 0, ones)
    calls.zero()
    assert not whole(calls, 0)[:16, :64].any()


PROGRAM = """
import ctypes, sys
calls = ctypes.CDLL(sys.argv[1])
made = (ctypes.c_uint8 * 64).from_buffer_copy(bytes.fromhex(sys.argv[2]))
calls.configure(made)
room = (ctypes.c_uint8 * 2048)()
eval(sys.argv[3])
"""
GOOD = configuration((16, 64), (16, 64), (16, 64), (8, 32))


def changed(at: int, value: int) -> bytes:
    made = GOOD.copy()
    made[at] = value
    return made.tobytes()


@pytest.mark.parametrize(
    ("config", "call", "said"),
    [
        (changed(0, 2), "0", "an unknown palette"),
        (changed(5, 1), "0", "a reserved byte"),
        (changed(33, 1), "0", "more than eight tiles"),
        (changed(48, 17), "0", "larger than 16 rows"),
        (changed(48, 0), "0", "rows or bytes, but not both"),
        (changed(0, 0), "calls.zero()", "not configured"),
        (
            GOOD.tobytes(),
            "calls.load(5, room, ctypes.c_int64(64))",
            "a tile that is not configured",
        ),
        (GOOD.tobytes(), "calls.dot_bf16(0, 1, 1)", "of a tile with itself"),
        (GOOD.tobytes(), "calls.dot_bf16(0, 1, 3)", "whose shapes differ"),
    ],
)
def test_what_a_processor_refuses_ends_the_process(
    built: Path, config: bytes, call: str, said: str
) -> None:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(built), config.hex(), call]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode < 0 and said in done.stderr
