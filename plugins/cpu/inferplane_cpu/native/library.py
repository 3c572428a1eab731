"""Find, load and describe the compiled kernel library with ctypes; knows nothing of models.

The library is built from `csrc/` when the wheel is made, one file for each instruction set. Where
it is missing or refused by the processor, `load_library` says why and the plugin runs per op.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import CDLL, POINTER, Structure, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from pathlib import Path

from inferplane.errors import UnsupportedError

__all__ = [
    "NATIVE",
    "Buffer",
    "Cache",
    "Group",
    "Instruction",
    "Kind",
    "Op",
    "Program",
    "Prologue",
    "Step",
    "find_library",
    "load_library",
]

VERSION = 6
NATIVE = "native"
"""A label of machines that have one of these libraries."""
_AVX512 = frozenset(("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"))
_AVX2 = frozenset(("avx2", "fma", "f16c"))


class Kind(IntEnum):
    """Types of packed weights and of caches, as in `csrc/kinds.hpp`."""

    F32 = 0
    BF16 = 1
    INT8 = 2
    INT8_G32 = 3
    INT4_G32 = 4
    INT8_G16 = 5
    FP8 = 6


class Op(IntEnum):
    """Instructions, as in `csrc/program.hpp`."""

    EMBED = 0
    LINEAR = 1
    NORM = 2
    ROTARY = 3
    ATTEND = 4
    SELECT = 5
    ARGMAX = 6
    SCALE = 7
    SOFTCAP = 8
    ADD = 9
    COPY = 10


class Prologue(IntEnum):
    """What a linear does to its input rows first."""

    NONE = 0
    RMS = 1
    SILU_MUL = 2
    GELU_MUL = 3


class Instruction(Structure):
    """One instruction; every field is 8 bytes (`csrc/program.hpp`)."""

    _fields_ = [
        *((name, c_int64) for name in ("op", "per_sample", "src", "dst", "src_at", "dst_at")),
        *((name, c_int64) for name in ("k", "n", "kind", "prologue", "add", "group", "layer")),
        *((name, c_int64) for name in ("heads", "kv_heads", "dim", "dim_v", "rotary", "window")),
        *((name, c_int64) for name in ("rounded", "gated")),
        *((name, c_double) for name in ("scale", "softcap", "eps")),
        *((name, c_void_p) for name in ("weight", "weight_scale", "bias", "norm", "norm_k")),
        *((name, c_void_p) for name in ("cos", "sin")),
    ]


class Buffer(Structure):
    """Rows of f32: address and floats between rows."""

    _fields_ = [("data", c_void_p), ("pitch", c_int64)]


class Cache(Structure):
    """One layer's KV blocks (`csrc/attention.hpp`)."""

    _fields_ = [
        ("kind", c_int32),
        ("keys", c_void_p),
        ("values", c_void_p),
        *((name, c_int64) for name in ("block_size", "kv_heads", "dim", "dim_v")),
        *((name, c_void_p) for name in ("key_scales", "value_scales")),
    ]


class Group(Structure):
    """A KV group's tables i32[S,width] and slots i32[T] of one step."""

    _fields_ = [("tables", c_void_p), ("width", c_int64), ("slots", c_void_p)]


class Step(Structure):
    """One step's sizes and int32 arrays."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "seqs", "samples")),
        *((name, c_void_p) for name in ("token_ids", "positions", "query_start", "seq_lens")),
        ("sample_rows", c_void_p),
        ("groups", POINTER(Group)),
        ("ids", c_void_p),
    ]


class Program(Structure):
    """Instructions, their buffers and caches, and working memory."""

    _fields_ = [
        ("instructions", POINTER(Instruction)),
        ("count", c_int64),
        ("buffers", POINTER(Buffer)),
        ("caches", POINTER(Cache)),
        ("shared", c_void_p),
        ("shared_bytes", c_int64),
        ("scratch", POINTER(c_void_p)),
        ("scratch_bytes", c_int64),
        ("partials", c_void_p),
        *((name, c_int64) for name in ("partial_floats", "widened_at", "tiles")),
    ]


def find_library(flags: Iterable[str], folder: Path | None = None) -> Path:
    """The best library that a processor with these flags can run; nothing is loaded.

    Raises UnsupportedError saying what is missing: an instruction set, or the compiled file.
    """
    have = frozenset(flags)
    if have >= _AVX512:
        name = "libinferplane_cpu_avx512.so"
    elif have >= _AVX2:
        name = "libinferplane_cpu_avx2.so"
    else:
        raise UnsupportedError("compiled kernels need AVX2, FMA and F16C, or AVX-512 with bf16")
    path = (folder or Path(__file__).parent) / name
    if not path.exists():
        raise UnsupportedError(
            f"{name} was not built with this installation: install g++ and reinstall inferplane-cpu"
        )
    return path


def load_library(flags: Iterable[str], folder: Path | None = None) -> CDLL:
    """The library for these flags, its functions typed.

    Raises UnsupportedError as `find_library`, and for a library of another version.
    """
    path = find_library(flags, folder)
    library = CDLL(str(path))
    found = (library.ip_version(), library.ip_instruction_bytes())
    if found != (VERSION, ctypes.sizeof(Instruction)):
        raise UnsupportedError(
            f"{path.name} is of another version {found}: reinstall inferplane-cpu"
        )
    _declare(library)
    return library


def _declare(library: CDLL) -> None:
    void, i64, integer = c_void_p, c_int64, c_int
    for name, result, arguments in (
        ("ip_isa", c_char_p, ()),
        ("ip_pool_create", void, (integer, POINTER(integer))),
        ("ip_pool_destroy", None, (void,)),
        ("ip_packed_bytes", i64, (integer, i64, i64)),
        ("ip_shared_bytes", i64, (integer, i64, i64)),
        ("ip_widened_bytes", i64, (i64, i64)),
        ("ip_scratch_bytes", i64, (i64, i64, i64, i64)),
        ("ip_tiles_refused", c_char_p, ()),
        ("ip_check_tiles", c_char_p, ()),
        ("ip_partial_floats", i64, (i64,)),
        ("ip_pack_f32", None, (void, i64, i64, void)),
        ("ip_pack_bf16", None, (void, i64, i64, void)),
        ("ip_pack_int8", None, (void, i64, i64, void)),
        ("ip_pack_int8_groups", None, (void, void, i64, i64, i64, void)),
        ("ip_pack_int4_g32", None, (void, void, void, integer, i64, i64, void)),
        ("ip_run", None, (void, POINTER(Program), POINTER(Step))),
        ("ip_write_tokens", None, (POINTER(Cache), void, i64, void, void)),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = list(arguments)
