"""A decode step over KV caches of several types, the models in one process and in turns.

python benchmarks/cpu/cache_types.py FOLDER [--types auto,int8,fp8] [--shapes 1x4096,8x1024,32x256]
For each shape, sequences x context: best milliseconds that a step takes inside the compiled
program, and the median ratio of the first type to each.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from inferplane import LLM, SamplingParams
from inferplane_cpu.native.machine import NativeProgram, StepArrays

_TOKENS = 24
_KV_MEMORY = "2GiB"


def main() -> None:
    """Read arguments, load the models, run in turns, print."""
    chosen = arguments()
    clock = Clock()
    models = {
        name: LLM(
            str(chosen.folder),
            dtype="bfloat16",
            max_model_len=max(context for _, context in chosen.shapes) + 4 * _TOKENS,
            kv_dtype=name,
            options={"kv_memory": _KV_MEMORY},
        )
        for name in chosen.types.split(",")
    }
    for sequences, context in chosen.shapes:
        prompts = drawn(sequences, context)
        turns = [
            {name: clock.step_ms(model, prompts) for name, model in models.items()}
            for _ in range(chosen.turns + 1)
        ][1:]  # the first one fills the prefix cache
        first = next(iter(models))
        print(f"{sequences} x {context}", told(turns, first), flush=True)


class Clock:
    """Seconds inside compiled programs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        run = NativeProgram.run

        def timed(program: NativeProgram, arrays: StepArrays) -> None:
            began = time.perf_counter()
            run(program, arrays)
            self.seconds += time.perf_counter() - began

        NativeProgram.run = timed  # type: ignore[method-assign, assignment]

    def step_ms(self, model: LLM, prompts: list[list[int]]) -> float:
        """Of a decode step, after the prompts' own."""
        prefill, whole = (self._spent(model, prompts, tokens) for tokens in (1, _TOKENS))
        return (whole - prefill) / (_TOKENS - 1) * 1e3

    def _spent(self, model: LLM, prompts: list[list[int]], tokens: int) -> float:
        self.seconds = 0.0
        sampling = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=tokens)
        model.generate(prompts, sampling)
        return self.seconds


def drawn(sequences: int, context: int) -> list[list[int]]:
    """Random prompts, alike in every run."""
    make = random.Random(0)
    return [[make.randint(5, 40_000) for _ in range(context)] for _ in range(sequences)]


def told(turns: list[dict[str, float]], first: str) -> str:
    """One line."""
    parts = []
    for name in turns[0]:
        ratio = statistics.median(turn[first] / turn[name] for turn in turns)
        parts.append(f"{name} {min(turn[name] for turn in turns):.2f} ms x{ratio:.3f}")
    return " | ".join(parts)


def shapes(text: str) -> list[tuple[int, int]]:
    """Of 1x4096,8x1024: (sequences, context)."""
    pairs = (part.split("x") for part in text.split(","))
    return [(int(sequences), int(context)) for sequences, context in pairs]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", default="auto,int8,fp8")
    parser.add_argument("--shapes", type=shapes, default="1x4096,8x1024,32x256")
    parser.add_argument("--turns", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
