"""The feed-forward layers of SmolLM2-135M, gated where they are multiplied and by their reader.

python benchmarks/cpu/feed_forward.py [--kind bf16] [--rows 9,16,32,512] [--layers 12]
Both ways in turns in one process, of random weights: best milliseconds, median ratio, equal bits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from linears import packed
from torch import Tensor

from inferplane_cpu.host import read_host
from inferplane_cpu.native.library import Prologue, load_library
from inferplane_cpu.native.machine import Machine, NativeProgram, ProgramBuilder, StepArrays
from inferplane_cpu.native.packing import PackedWeight, Packer

_HIDDEN, _INNER = 576, 1536
_TURNS = 2_560
"""Rows of all turns together, between 6 and 80 turns."""


def main() -> None:
    """Read arguments, pack, run in turns, print."""
    chosen = arguments()
    library = load_library(read_host(Path("/"), None).flags)
    machine, packer = Machine(library, tuple(range(chosen.threads))), Packer(library)
    layers = [
        (
            packed(packer, chosen.kind, (2 * _INNER, _HIDDEN)),
            packed(packer, chosen.kind, (_HIDDEN, _INNER)),
        )
        for _ in range(chosen.layers)
    ]
    for rows in (int(text) for text in chosen.rows.split(",")):
        ways = [Way(machine, layers, rows, early) for early in (False, True)]
        turns = max(6, min(80, _TURNS // rows))
        times = [[way.seconds() for way in ways] for _ in range(turns + 1)][1:]
        late, early = (min(turn[at] for turn in times) * 1e3 for at in (0, 1))
        ratio = statistics.median(turn[0] / turn[1] for turn in times)
        same = "same bits" if torch.equal(ways[0].result, ways[1].result) else "OTHER BITS"
        line = f"by the reader {late:8.2f} ms, where multiplied {early:8.2f} ms x{ratio:.3f}"
        print(f"{rows:4} rows {line}, {same}", flush=True)
    machine.close()


class Way:
    """One program over all layers; inputs are the same random rows for both."""

    def __init__(
        self,
        machine: Machine,
        layers: list[tuple[PackedWeight, PackedWeight]],
        rows: int,
        early: bool,
    ) -> None:
        builder = ProgramBuilder(machine, rows, 1)
        source, wide, target = (builder.buffer(n) for n in (_HIDDEN, 2 * _INNER, _HIDDEN))
        norm = torch.ones(_HIDDEN)
        for up, down in layers:
            builder.linear(up, source, wide, prologue=Prologue.RMS, norm=norm, eps=1e-5, rounded=1)
            if early:
                builder.gate(Prologue.SILU_MUL, wide, _INNER)
            builder.linear(down, wide, target, prologue=Prologue.SILU_MUL, rounded=1)
        self._program: NativeProgram = builder.build(1, 32)
        make = torch.Generator().manual_seed(rows)
        self._program.buffers[source].normal_(generator=make)
        ids, none = torch.zeros(rows, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        self._arrays = StepArrays(ids, ids, none, none, none, (), ())
        self._target = target

    @property
    def result(self) -> Tensor:
        """What the last layer left."""
        return self._program.buffers[self._target]

    def seconds(self) -> float:
        """Of one run."""
        began = time.perf_counter()
        self._program.run(self._arrays)
        return time.perf_counter() - began


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", default="bf16", help="bf16, int8, int8-groups or int4")
    parser.add_argument("--rows", default="9,12,16,24,32,48,512")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
