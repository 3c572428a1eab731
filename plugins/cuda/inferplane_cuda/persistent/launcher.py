"""Launches of the walking kernel: which variant, how much in flight, where its lists lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane_cuda.persistent.instructions import WORDS, Heads, Weights
from inferplane_cuda.programs import Program

__all__ = ["MOST_INSTRUCTIONS", "SOURCES", "THREADS", "Launcher", "longest_row", "variant"]

SOURCES = (
    "quantization/codes.cu",
    *(
        f"persistent/{part}.cu"
        for part in ("base", "halves", "straight", "row", "attend", "ring", "walk")
    ),
)
WARPS = 16
THREADS = 32 * WARPS
BRINGERS = 128
_MOST_DEPTH = 16
_BESIDE_SLOT = 16 + 128
"""Bytes of a slot's barriers and of the scales of its outputs."""
_ALIGNED = 1024
"""Bytes that a ring may be moved by, since a slot begins at a multiple."""
MOST_INSTRUCTIONS = 84
"""Of a launch: they lie on-chip, and what they take weights in flight cannot have."""
_MOST_KEPT = 8


def longest_row() -> int:
    """Inputs of a matrix at most."""
    return _MOST_KEPT * 8 * THREADS


def variant(
    weights: Weights,
    heads: Heads,
    longest: int,
    count: int,
    shared_bytes: int,
    generation: int = 9,
) -> dict[str, int]:
    """Definitions for a list of `count` instructions over rows of at most `longest`.

    `shared_bytes` = on-chip memory of a block at most; what is left of it is weights in flight.
    `generation` = major number of the device's compute capability.
    """
    summands = weights.summands if generation == 9 else WARPS
    row = longest if weights.INPUT == 1 else 2 * longest
    held = -(-max(row, WARPS // 2 * heads.MEMBERS * heads.SIZE * 4) // 1024) * 1024
    kept = -(-longest // (8 * THREADS))
    left = shared_bytes - _static_bytes(weights, heads, kept, summands) - held - count * WORDS * 8
    depth = min(_MOST_DEPTH, left // (weights.slot_bytes() + _BESIDE_SLOT))
    return {
        **asdict(weights), **asdict(heads), "NT": 1, "MT": 2, "WARPS": WARPS, "DEPTH": depth,
        "WORKERS": THREADS, "KEEP": kept, "HELD": held,
    }  # fmt: skip


def _static_bytes(weights: Weights, heads: Heads, kept: int, summands: int) -> int:
    """On-chip memory that the source declares, at most, beside what each slot takes."""
    sums = 2 * summands * 32 * 4 + WARPS * 4
    of_x = 4
    if weights.CODES == 4 or weights.OFFSET:
        of_x = kept * 8 * THREADS // (weights.GROUP if weights.GROUP in (32, 64) else 128) * 8
    heads_met = 16 * (heads.SIZE + 8) + 4 * heads.SIZE + (WARPS + 1) * heads.MEMBERS * 4
    return sums + of_x + (heads_met if heads.MEMBERS else 0) + _ALIGNED


class Launcher:
    """Of one device. Lists of a captured step are filled in once its addresses are final."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        facts: Any = torch.cuda.get_device_properties(device)
        self._blocks = int(facts.multi_processor_count)
        self._shared_bytes = int(facts.shared_memory_per_block_optin)
        self._generation = int(facts.major)
        self._counters = torch.zeros(2, dtype=torch.int32, device=device)
        self._lists: list[tuple[Tensor, Tensor]] = []
        self.rounds = False
        """Whether a list rounded the inputs of its matrices to 8 bits."""
        self._next = 0
        self._late: list[tuple[Tensor, list[list[int]]]] = []

    @property
    def blocks(self) -> int:
        """How many walk a list together, one on each multiprocessor."""
        return self._blocks

    @property
    def lists(self) -> int:
        """How many launches a step takes."""
        return len(self._lists)

    def begin(self) -> None:
        """A step begins anew: its lists are those of the run before, in the same order."""
        self._next = 0

    def launch(
        self, rows: Sequence[list[int]], weights: Weights, heads: Heads, longest: int, left: int
    ) -> None:
        """Enqueue one walk over `rows`, which leave `left` words for each other. Raises
        DeviceError when a captured step differs from the run before it."""
        defined = variant(weights, heads, longest, len(rows), self._shared_bytes, self._generation)
        self.rounds |= weights.INPUT == 1
        if defined["DEPTH"] < 2:
            raise DeviceError(f"{len(rows)} instructions over rows of {longest} do not fit on-chip")
        program = _program(tuple(defined.items()))
        function = program.function("walk")
        table, words = self._table(list(rows), left)
        shared = defined["DEPTH"] * weights.slot_bytes()
        shared += defined["HELD"] + len(rows) * WORDS * 8
        if program.resident_blocks(function, THREADS + BRINGERS, shared) < self._blocks:
            raise DeviceError("a multiprocessor has no room for a block that stays")
        arguments = (table, self._counters, words, len(rows))
        program.launch(function, (self._blocks, 1), THREADS + BRINGERS, arguments, shared)

    def finish(self) -> None:
        """Fill in the lists that were captured."""
        for table, rows in self._late:
            table.copy_(_as_tensor(rows))
        self._late.clear()
        torch.cuda.synchronize(self._device)

    def _table(self, rows: list[list[int]], left: int) -> tuple[Tensor, Tensor]:
        capturing = torch.cuda.is_current_stream_capturing()
        if self._next == len(self._lists):
            if capturing:
                raise DeviceError("a captured step takes more launches than the run before it")
            table = torch.empty((len(rows), WORDS), dtype=torch.int64, device=self._device)
            words = torch.zeros(max(left, 1), dtype=torch.int32, device=self._device)
            self._lists.append((table, words))
        table, words = self._lists[self._next]
        if len(table) != len(rows) or len(words) != max(left, 1):
            raise DeviceError("a step takes other instructions than the run before it")
        self._next += 1
        if capturing:
            self._late.append((table, rows))
        else:
            table.copy_(_as_tensor(rows))
        return table, words


def _as_tensor(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


@lru_cache(maxsize=32)
def _program(defined: tuple[tuple[str, int], ...]) -> Program:
    return Program("inferplane_cuda", SOURCES, dict(defined), own=True)
