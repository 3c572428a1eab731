"""Launch settings by architecture: tables made offline, never searched while serving."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import triton
from triton import knobs

__all__ = [
    "CodeTuning",
    "DecodeTuning",
    "DrawTuning",
    "ExpertTuning",
    "PrefillTuning",
    "StreamTuning",
    "Target",
    "TileTuning",
    "code_tuning",
    "decode_tuning",
    "draw_tuning",
    "expert_tuning",
    "gated_tuning",
    "normed_tuning",
    "prefill_tuning",
    "stream_tuning",
    "target",
    "tile_tuning",
]


_EARLY_ROWS = 16
_GFX11_TILE = 16
"""Its matrix instructions want operands twice in registers: with 32 they spill."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the kernels will run on."""

    backend: str
    """Triton's word: its code generator, or "interpreter"."""
    arch: str
    units: int
    """Processors that run programs side by side."""
    shared_bytes: int
    """On-chip memory of one program at most."""

    @property
    def has_early_start(self) -> bool:
        """A kernel may begin while the one in front of it still runs."""
        return self.backend == "cuda" and int(self.arch) >= 90

    def launch(self, rows: int) -> dict[str, bool]:
        """What kernels that meet their neighbours (`device.order`) are launched with.

        With few rows a step is bound by the way from kernel to kernel; with many nothing is won.
        """
        if rows <= _EARLY_ROWS and self.has_early_start:
            return {"EARLY": True, "launch_pdl": True}
        return {"EARLY": False}


@dataclass(frozen=True, slots=True)
class DecodeTuning:
    """How decode attention is cut and launched."""

    tile: int
    """Cached tokens of one loop step."""
    warps: int
    stages: int
    programs_per_unit: int
    """The work list is cut until about so many programs a unit exist."""
    min_piece: int
    """Tokens below which a context is not cut further."""
    lone: int = 0
    """Up to so many sequences latency counts, not bandwidth: then the next two hold."""
    lone_warps: int = 4
    lone_stages: int = 1


@dataclass(frozen=True, slots=True)
class PrefillTuning:
    """How prompt attention is tiled and launched."""

    rows: int
    """Query rows (tokens x grouped heads) of one program."""
    tile: int
    warps: int
    stages: int
    whole_from: int
    """Tokens of a prompt without context from which torch's own attention is faster."""


@dataclass(frozen=True, slots=True)
class CodeTuning:
    """How few rows times quantised weights are cut."""

    rows: int
    """Outputs of one program."""
    warps: int


@dataclass(frozen=True, slots=True)
class DrawTuning:
    """How rows of logits are cut where a token is drawn."""

    span: int
    """Logits of one program that passes over a row with others."""
    candidates: int
    """Most elements that are sorted."""
    bins: int
    """Parts into which what is left of a row is divided."""
    weighed: int
    """Logits that are weighed at once, at every depth."""
    weighed_unrolled: int
    """Times as many that are loaded before a program waits."""
    searched: int
    """Logits that a search takes at once."""
    unrolled: int
    """Times as many that it loads before it waits."""
    warps: int


@dataclass(frozen=True, slots=True)
class ExpertTuning:
    """How the rows of one expert are cut."""

    rows: int
    """Sorted rows of one program."""
    cols: int
    """Outputs of one program."""
    inputs: int
    """Inputs of one loop step."""
    warps: int
    stages: int

    @property
    def flight_bytes(self) -> int:
        """At most so many bytes lie in on-chip memory for each byte of an element."""
        return (self.rows + self.cols) * self.inputs * self.stages


@dataclass(frozen=True, slots=True)
class TileTuning:
    """How many rows times quantised weights are launched."""

    rows: int
    """Rows of input of one program."""
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class StreamTuning:
    """How one row times a matrix is cut."""

    rows: int
    """Outputs of one program."""
    cols: int
    """Inputs of one step of the loop."""
    warps: int
    stages: int
    """0 = unrolled, in registers; else steps held in on-chip memory."""


@lru_cache(maxsize=1)
def target() -> Target:
    """The current device as Triton's driver reports it; a small one under the interpreter."""
    if knobs.runtime.interpret:
        return Target("interpreter", "", 8, 1 << 30)
    driver = triton.runtime.driver.active
    current = driver.get_current_target()
    facts = driver.utils.get_device_properties(driver.get_current_device())
    return Target(
        current.backend,
        str(current.arch),
        int(facts["multiprocessor_count"]),
        int(facts["max_shared_mem"]),
    )


def decode_tuning(
    found: Target, head_dim: int, itemsize: int, has_codes: bool = False
) -> DecodeTuning:
    """Tiles of keys and values, `stages` deep, must fit the on-chip memory.

    Widening codes of 8 bits takes registers, which gfx12 has for half the tile alone.
    """
    if found.backend == "interpreter":
        return DecodeTuning(16, 4, 1, 2, 16)
    narrow = head_dim > 128 or (has_codes and found.arch.startswith("gfx12"))
    tile = _GFX11_TILE if _is_gfx11(found) else 32 if narrow else 64
    stages = 3
    while stages > 1 and 2 * stages * tile * head_dim * itemsize > found.shared_bytes // 2:
        stages -= 1
    return DecodeTuning(
        tile,
        4,
        stages,
        4,
        64,
        lone=0 if _is_gfx11(found) else 4,
        lone_warps=2,
        lone_stages=min(stages, 2),
    )


def _is_gfx11(found: Target) -> bool:
    return found.arch.startswith("gfx11")


def prefill_tuning(
    found: Target, head_dim: int, itemsize: int, is_capped: bool = False, has_codes: bool = False
) -> PrefillTuning:
    """One warpgroup of query rows: on an H200 faster than two, at every length measured.

    A soft cap on AMD's parts takes half as many, codes of 8 bits on gfx11 a quarter: with more
    registers spill.
    """
    if found.backend == "interpreter":
        return PrefillTuning(16, 16, 4, 1, 32)
    narrow = itemsize > 2 or head_dim > 128 or found.backend == "hip"
    if narrow:
        if _is_gfx11(found):
            return PrefillTuning(16 if has_codes else 64, _GFX11_TILE, 4, 1, 1024)
        rows = 32 if is_capped and found.backend == "hip" else 64
        return PrefillTuning(rows, 32, 4, 1 if itemsize > 2 else 2, 1024)
    return PrefillTuning(64, 64, 4, 2, 1024)


@lru_cache(maxsize=64)
def stream_tuning(inputs: int, outputs: int) -> StreamTuning:
    """Many programs, each with tens of kilobytes of weights in flight."""
    pad = max(16, int(triton.next_power_of_2(inputs)))
    if inputs <= 3072:
        return StreamTuning(4, min(1024, pad), 4, 0)
    return StreamTuning(4, min(2048, pad), 4, 3)


@lru_cache(maxsize=64)
def normed_tuning(inputs: int, outputs: int) -> StreamTuning:
    """A program holds whole rows: `cols` = all inputs."""
    pad = max(16, int(triton.next_power_of_2(inputs)))
    return StreamTuning(4, pad, 8 if pad > 2048 else 4, 0)


@lru_cache(maxsize=64)
def gated_tuning(inputs: int, outputs: int) -> StreamTuning:
    """As `stream_tuning` for short rows."""
    cols = min(1024, max(16, int(triton.next_power_of_2(inputs))))
    return StreamTuning(4, cols, 4, 0)


@lru_cache(maxsize=64)
def code_tuning(is_bytes: bool, rows: int) -> CodeTuning:
    """For `rows` of input: some 64 bytes of codes in flight a thread, and sums that fit its
    registers."""
    outputs = 8 if is_bytes else 4
    return CodeTuning(outputs if rows <= 2 else outputs // 2, 4)


@lru_cache(maxsize=1)
def draw_tuning() -> DrawTuning:
    """The interpreter sorts an element at a time, so there the search gets more rows.

    AMD's parts hold masks in scalar registers, which are enough with 512 threads.
    """
    found = target()
    if found.backend == "interpreter":
        return DrawTuning(2048, 32, 32, 256, 2, 1024, 2, 4)
    if found.backend == "hip":
        return DrawTuning(
            8192, 1024, 32, 256, 1, 1024, 1, 8 if found.arch.startswith("gfx9") else 16
        )
    return DrawTuning(8192, 1024, 32, 256, 8, 512, 4, 16)


def expert_tuning(found: Target, rows: int, itemsize: int) -> ExpertTuning:
    """For so many rows of an expert on average; few rows are bound by the weights' bytes.

    What is in flight fits the on-chip memory. Large tiles of float32 spill registers, and before
    sm_80 all long steps do.
    """
    if found.backend == "interpreter":
        return ExpertTuning(16, 32, 32, 4, 1)
    few = 16 if rows <= 16 else 32 if rows <= 32 else 64
    if found.backend == "hip":
        wide, warps = (32, 8 if few == 64 else 4) if itemsize == 4 else (64, 4)
        return ExpertTuning(few, wide, wide, warps, 1)
    is_old = found.backend == "cuda" and int(found.arch) < 80
    if is_old or (itemsize == 4 and few == 64):
        return ExpertTuning(few, 64, 32, 8 if few == 64 else 4, 2)
    tuning = ExpertTuning(128, 128, 64, 8, 3)
    if rows <= 64:
        tuning = ExpertTuning(few, 64, 128 if few == 16 else 64, 4, 3)
    while tuning.flight_bytes * itemsize > found.shared_bytes and tuning.stages > 1:
        tuning = replace(tuning, stages=tuning.stages - 1)
    return tuning


def tile_tuning(found: Target, rows: int) -> TileTuning:
    """For `rows` of input. Deeper pipelines or fewer warps spill registers on AMD's parts, where
    widened weights of a tile lie in registers next to its sums."""
    few = rows <= 16
    if found.backend == "hip":
        return TileTuning(16, 4, 1) if few else TileTuning(64, 8, 1)
    return TileTuning(16 if few else 64, 4, 3)
