"""How `stream.cu` is compiled and launched.

T tokens, O outputs, I inputs, E experts of a stack, k of each row, P = T * k pairs of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inferplane.interfaces import QuantScheme
from inferplane_cuda.programs import Program
from inferplane_triton.kernels.stacks import Routes

__all__ = [
    "SOURCES",
    "Variant",
    "fits",
    "needed",
    "prepare",
    "stack_sized",
    "stream",
    "stream_stack",
    "variant_of",
    "widen",
]

_FUSED_BYTES = 32 * 1024
"""Rows that are rounded on the way lie in on-chip memory."""
_ROOMY_BYTES = 120 * 1024
_KEPT_INPUTS = 16384
"""A row's share of each thread passes through its registers on the way there."""
_LEAST_SHARES = 4
"""Blocks among which the outputs of an expert's rows are divided, at the least."""
SOURCES = ("codes.cu", "rows.cu", "stream.cu", "widen.cu")
_CODES = {"int4": 4, "int8": 8, "fp8_e4m3": 7}
_TILES_OF_ROWS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Variant:
    """What is fixed while compiling; the names are the source's."""

    CODES: int
    INPUT: int
    HALF: int
    NT: int = 1
    MT: int = 2
    GROUP: int = 0
    OFFSET: int = 0
    GIVEN: int = 0
    WARPS: int = 8
    DEPTH: int = 4
    HELD: int = 0
    STACK: int = 0

    @property
    def flight_bytes(self) -> int:
        """What the chunks in flight take of a block's on-chip memory."""
        parts = 0 if not self.GROUP else 2 if self.GROUP == 32 else 1
        scales = parts * (2 if self.OFFSET else 1) * 128
        codes = self.MT * (512 if self.CODES == 4 else 1024)
        return self.WARPS * self.DEPTH * (codes + scales)


def fits(variant: Variant, rows: int, inputs: int) -> bool:
    """Whether the rows are held on-chip."""
    each = inputs if variant.INPUT == 1 else 2 * inputs
    return rows <= 8 and rows * each <= _FUSED_BYTES and inputs <= _KEPT_INPUTS


def variant_of(scheme: QuantScheme, dtype: str, given: bool = False, experts: int = 0) -> Variant:
    """Codes, groups and offsets of a scheme; x in 16 bits, or rounded where the scheme says so."""
    return Variant(
        CODES=_CODES[scheme.weight],
        INPUT=1 if scheme.activation else 0,
        HALF=int(dtype == "float16"),
        GROUP=max(scheme.group, 0),
        OFFSET=int(scheme.offset),
        GIVEN=int(given),
        STACK=experts,
    )


def prepare(variant: Variant, inputs: int) -> None:
    """Compile what any number of rows needs: nothing can while a graph is recorded."""
    for one in needed(variant, inputs):
        _program(one)


def stream(
    variant: Variant,
    x: Tensor,
    packed: Mapping[str, Tensor],
    outputs: int,
    bias: Tensor | None,
    dtype: torch.dtype,
    x_scales: Tensor | None = None,
) -> Tensor:
    """x[T,I] -> [T,O] of `dtype`; x's inputs are contiguous."""
    rows, inputs = x.shape
    chosen = _sized(variant, rows, inputs)
    program = _program(chosen)
    function, threads = program.function("stream"), 32 * chosen.WARPS
    out = torch.empty((rows, outputs), dtype=dtype, device=x.device)
    shared = chosen.flight_bytes
    if chosen.HELD:
        shared += rows * (inputs + 4 if chosen.INPUT == 1 else 2 * inputs)
    across, tiles = -(-rows // (8 * chosen.NT)), -(-outputs // (16 * chosen.MT))
    room = program.resident_blocks(function, threads, shared)
    grid = across, min(tiles, max(1, room // across))
    arguments = (
        x, packed["codes"], packed["scales"], packed.get("offsets"), x_scales, bias, out,
        rows, outputs, inputs, x.stride(0),
    )  # fmt: skip
    program.launch(function, grid, threads, arguments, shared)
    return out


def stream_stack(
    variant: Variant,
    x: Tensor,
    packed: Mapping[str, Tensor],
    outputs: int,
    dtype: torch.dtype,
    routes: Routes,
    x_scales: Tensor | None = None,
) -> Tensor:
    """x[T,I] -> [P,O] of `dtype`, a row's experts after one another; x's inputs are contiguous.

    Matrices lie one after another; O is a multiple of 32. Grids depend on shapes alone.
    """
    inputs, experts, num_pairs = x.shape[1], variant.STACK, len(routes.order)
    chosen = stack_sized(variant, routes.average, inputs)
    program = _program(chosen)
    function, threads, tall = program.function("stream"), 32 * chosen.WARPS, 8 * chosen.NT
    out = torch.empty((num_pairs, outputs), dtype=dtype, device=x.device)
    shared = chosen.flight_bytes + (2 * tall * inputs if chosen.HELD else 0)
    across, tiles = num_pairs // tall + min(experts, num_pairs), outputs // (16 * chosen.MT)
    room = program.resident_blocks(function, threads, shared)
    each = -(-tiles // max(_LEAST_SHARES, room // across))
    arguments = (
        x, packed["codes"], packed["scales"], packed.get("offsets"), x_scales, None, out,
        num_pairs, outputs, inputs, x.stride(0), routes.order, routes.counts, routes.choices,
    )  # fmt: skip
    program.launch(function, (across, -(-tiles // each)), threads, arguments, shared)
    return out


def stack_sized(variant: Variant, average: int, inputs: int) -> Variant:
    """For so many rows of an expert on average: most have no more than twice as many."""
    rows = 8 if average == 1 else 2 * average
    return _sized(variant, rows, inputs)


def widen(
    variant: Variant, packed: Mapping[str, Tensor], outputs: int, inputs: int, dtype: torch.dtype
) -> Tensor:
    """The weights [O,I] in 16 bits."""
    chosen = _sized(variant, 1, inputs)
    program = _program(chosen)
    out = torch.empty((outputs, inputs), dtype=dtype, device=packed["codes"].device)
    grid = -(-inputs // (64 * chosen.WARPS)), -(-outputs // 16)
    arguments = (
        packed["codes"], packed["scales"], packed.get("offsets"), out, outputs, inputs,
    )  # fmt: skip
    program.launch(program.function("widen"), grid, 32 * chosen.WARPS, arguments)
    return out


def needed(variant: Variant, inputs: int) -> list[Variant]:
    """What `stream` and `stream_stack` choose among for matrices of so many inputs."""
    if variant.STACK:
        each = (stack_sized(variant, 4 * tiles, inputs) for tiles in _TILES_OF_ROWS)
        return list(dict.fromkeys(each))
    rows = [1, *(8 * tiles for tiles in _TILES_OF_ROWS)]
    if variant.INPUT == 0:
        return list(dict.fromkeys(_sized(variant, r, inputs) for r in rows))
    rounded = replace(variant, INPUT=2, GIVEN=0)
    return [_sized(variant, 1, inputs), *(_sized(rounded, r, inputs) for r in rows[1:])]


def _sized(variant: Variant, rows: int, inputs: int) -> Variant:
    tiles = next((n for n in _TILES_OF_ROWS if rows <= 8 * n), _TILES_OF_ROWS[-1])
    is_light = variant.CODES == 4 and tiles < 4
    return replace(
        variant,
        NT=tiles,
        WARPS=16 if is_light else 8,
        DEPTH=(2 if is_light else 4) // (2 if _has_little_memory() else 1),
        HELD=int(variant.INPUT == 1 or (variant.INPUT == 0 and fits(variant, rows, inputs))),
    )


@lru_cache(maxsize=1)
def _has_little_memory() -> bool:
    """Whether a block of this device gets less on-chip memory than sm_80 gives (163 KiB)."""
    if not torch.cuda.is_available():
        return False
    facts: Any = torch.cuda.get_device_properties()  # torch's annotations miss what it tells
    return bool(facts.shared_memory_per_block_optin < _ROOMY_BYTES)


@lru_cache(maxsize=128)
def _program(variant: Variant) -> Program:
    return Program(__package__ or "", SOURCES, asdict(variant))
