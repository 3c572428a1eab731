"""The linears of SmolLM2-135M in the kernels of one or more libraries, in turns in one process.

python benchmarks/cpu/linears.py FOLDER [FOLDER ...] [--kinds bf16] [--rows 1,8] [--amx off,auto]
A folder holds a library of the CPU plugin; the first is the baseline. With both values of --amx
each library runs by vectors and by AMX tiles in turns. For each kind of weights and
number of rows: best milliseconds, operations a second, median ratio to the baseline, equal bits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inferplane_cpu.host import read_host
from inferplane_cpu.native.library import load_library
from inferplane_cpu.native.machine import Machine, NativeProgram, ProgramBuilder, StepArrays
from inferplane_cpu.native.packing import PackedWeight, Packer
from inferplane_cpu.native.tiles import choose_tiles

_LAYERS = 30
_SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))
"""(outputs, inputs) of one layer."""
_HEAD = (49_152, 576)
_MOST_SAMPLED = 64
"""A step with more rows is a prompt: one of them meets the output layer."""


def main() -> None:
    """Read arguments, pack, run in turns, print."""
    chosen = arguments()
    ways = chosen.amx.split(",")
    machines = [made(folder, way, chosen.threads) for folder in chosen.folders for way in ways]
    for kind in chosen.kinds.split(","):
        packer = Packer(machines[0].library)
        layers = [packed(packer, kind, shape) for _ in range(_LAYERS) for shape in _SHAPES]
        head = packed(packer, kind, _HEAD)
        for rows in (int(text) for text in chosen.rows.split(",")):
            steps = [Step.of(machine, layers, head, rows) for machine in machines]
            print(f"{kind:12} {rows:4} rows", compared(steps, chosen.turns), flush=True)
    for machine in machines:
        machine.close()


def made(folder: Path, amx: str, threads: int) -> Machine:
    """A library's machine, with tiles if `amx` says so and this processor has them."""
    flags = read_host(Path("/"), None).flags
    library = load_library(flags, folder)
    tiles = choose_tiles(flags, library, amx)
    print(folder, "by tiles" if tiles.on else f"by vectors {tiles.refused}".rstrip(), flush=True)
    return Machine(library, tuple(range(threads)), tiles.on)


@dataclass(frozen=True, slots=True)
class Step:
    """One library's program over all linears."""

    program: NativeProgram
    arrays: StepArrays
    results: tuple[int, ...]
    operations: int

    @classmethod
    def of(
        cls, machine: Machine, layers: list[PackedWeight], head: PackedWeight, rows: int
    ) -> Step:
        """Inputs are the same random rows for every library."""
        sampled = rows if rows <= _MOST_SAMPLED else 1
        builder = ProgramBuilder(machine, rows, sampled)
        inputs = {k: builder.buffer(k) for k in sorted({w.in_features for w in layers})}
        outputs = {n: builder.buffer(n) for n in sorted({w.out_features for w in layers})}
        for weight in layers:
            source, target = inputs[weight.in_features], outputs[weight.out_features]
            builder.linear(weight, source, target, rounded=1)
        last = builder.buffer(head.in_features, per_sample=True)
        logits = builder.buffer(head.out_features, per_sample=True)
        builder.linear(head, last, logits, per_sample=1, rounded=1)
        program = builder.build(1, 32)
        make = torch.Generator().manual_seed(rows)
        for buffer in (*inputs.values(), last):
            program.buffers[buffer].normal_(generator=make)
        tokens, none = torch.zeros(rows, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        arrays = StepArrays(tokens, tokens, none, none, tokens[:sampled], (), ())
        work = 2 * rows * sum(w.in_features * w.out_features for w in layers)
        work += 2 * sampled * head.in_features * head.out_features
        return cls(program, arrays, (*outputs.values(), logits), work)

    def seconds(self) -> float:
        """Of one run."""
        began = time.perf_counter()
        self.program.run(self.arrays)
        return time.perf_counter() - began

    def equals(self, other: Step) -> bool:
        """Bit by bit, after a run of both."""
        mine, theirs = self.program.buffers, other.program.buffers
        return all(torch.equal(mine[a], theirs[a]) for a in self.results)


def compared(steps: list[Step], turns: int) -> str:
    """One line; the first turn warms up."""
    times = [[step.seconds() for step in steps] for _ in range(turns + 1)][1:]
    told = []
    for at, step in enumerate(steps):
        best = min(turn[at] for turn in times)
        ratio = statistics.median(turn[0] / turn[at] for turn in times)
        same = "" if step.equals(steps[0]) else ", other bits"
        told.append(
            f"{best * 1e3:8.2f} ms {step.operations / best / 1e9:5.0f} GOP/s x{ratio:.2f}{same}"
        )
    return " | ".join(told)


def packed(packer: Packer, kind: str, shape: tuple[int, int]) -> PackedWeight:
    """Random weights of a kind."""
    outputs, inputs = shape
    weight = torch.randn(outputs, inputs) * 0.05
    scales = torch.rand(outputs, inputs // 32) * 0.01
    match kind:
        case "bf16":
            return packer.dense(weight.bfloat16())
        case "int8":
            return packer.int8(rounded(weight * 100, 127), scales[:, :1])
        case "int8-groups":
            return packer.int8(rounded(weight * 100, 127), scales)
        case "int4":
            return packer.int4(rounded(weight * 40, 7), scales, None, -8)
    raise SystemExit(f"--kinds {kind}: bf16, int8, int8-groups or int4")


def rounded(values: Tensor, most: int) -> Tensor:
    """int8 in -most..most."""
    return values.round().clamp(-most, most).to(torch.int8)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--kinds", default="bf16,int8,int8-groups,int4")
    parser.add_argument("--rows", default="1,4,8,32,512")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--amx", default="auto", help="auto, off or both, comma-separated")
    return parser.parse_args()


if __name__ == "__main__":
    main()
