"""Whether what is timed is right: kernels against float64, and an engine against the CPU's.

Inputs are new in every run; the seed is part of the result.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from session import Session, model_folder
from shapes import SHAPES
from workloads import TINY, workloads

from inferplane.interfaces import EngineConfig

__all__ = ["check_numerics"]

_LIMIT = 1e-2
"""Relative Frobenius error of bf16 against float64."""


def check_numerics(device: str, plugins: tuple[str, ...] | None, tiny: bool) -> dict[str, Any]:
    """Errors by kernel, and the share of tokens on which two float32 engines agree."""
    seed = random.SystemRandom().randrange(1 << 31)
    found: dict[str, Any] = {"seed": seed}
    if device != "cpu":
        from attention_cases import attention_errors, kernel_errors  # they import triton

        found |= kernel_errors(seed) | attention_errors(seed)
    found["greedy agreement with cpu"] = greedy_agreement(device, plugins)
    wrong = {k: v for k, v in found.items() if isinstance(v, float) and k[0] != "g" and v > _LIMIT}
    if wrong or found["greedy agreement with cpu"] < 0.98:
        found["WRONG"] = wrong or "tokens differ"
    print(f"numerics {found}", flush=True)
    return found


def greedy_agreement(device: str, plugins: tuple[str, ...] | None) -> float:
    """Share of greedy tokens that are the same up to each request's first difference."""
    from dataclasses import replace

    same = total = 0
    for name, full in SHAPES.items():
        shape = replace(
            full, layers=3, hidden=256, heads=8, kv_heads=4, head_dim=64, intermediate=512,
            vocab=2048,
        )  # fmt: skip
        work = next(w for w in workloads(shape.vocab, TINY) if w.kind == "mixed")
        with tempfile.TemporaryDirectory() as root:
            folder = model_folder(Path(root), name, {**shape.config(), "torch_dtype": "float32"})
            ours = tokens(folder, device, plugins, work.prompts, work.outputs)
            reference = tokens(folder, "cpu", plugins, work.prompts, work.outputs)
        for a, b in zip(ours, reference, strict=True):
            same += next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
            total += len(a)
    return same / total


def tokens(
    folder: Path,
    device: str,
    plugins: tuple[str, ...] | None,
    prompts: list[list[int]],
    outputs: list[int],
) -> list[list[int]]:
    """What an engine of its own generates in float32."""
    config = EngineConfig(
        model=str(folder),
        device=device,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=8,
        max_batched_tokens=64,
        memory_fraction=0.3,
    )
    session = Session(config, plugins if device == "cuda" else cpu_plugins(plugins))
    _, found = session.generate(prompts, outputs)
    session.close()
    return found


def cpu_plugins(plugins: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The processor's plugin by module where plugins are given by module."""
    return None if plugins is None else ("inferplane_cpu.plugin",)
