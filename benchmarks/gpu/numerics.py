"""Whether what is timed is right: kernels against float64, and an engine against the CPU's.

Inputs are new in every run; the seed is part of the result.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from agreement import cpu_plugins, on_cpu, real_agreement, shared_share, tokens
from session import model_folder
from shapes import SHAPES
from workloads import TINY, workloads

from inferplane.interfaces import EngineConfig

__all__ = ["check_numerics"]

_LIMIT = 1e-2
"""Relative Frobenius error of bf16 against float64."""


def check_numerics(
    device: str, plugins: tuple[str, ...] | None, tiny: bool, gguf: str = ""
) -> dict[str, Any]:
    """Errors by kernel, and the share of tokens on which engines on two devices agree: on made-up
    weights, and on the real ones of `gguf`."""
    seed = random.SystemRandom().randrange(1 << 31)
    found: dict[str, Any] = {"seed": seed}
    if device != "cpu":
        from attention_cases import attention_errors, kernel_errors  # they import triton

        found |= kernel_errors(seed) | attention_errors(seed)
    found["greedy agreement with cpu"] = greedy_agreement(device, plugins)
    wrong = {k: v for k, v in found.items() if isinstance(v, float) and k[0] != "g" and v > _LIMIT}
    if wrong or found["greedy agreement with cpu"] < 0.98:
        found["WRONG"] = wrong or "tokens differ"
    if gguf:
        found["real model"] = real_agreement(gguf, device, plugins)
    print(f"numerics {found}", flush=True)
    return found


def greedy_agreement(device: str, plugins: tuple[str, ...] | None) -> float:
    """Share of greedy tokens that are the same up to each request's first difference, for small
    models of made-up weights."""
    ours: list[list[int]] = []
    theirs: list[list[int]] = []
    for name, full in SHAPES.items():
        shape = replace(
            full, layers=3, hidden=256, heads=8, kv_heads=4, head_dim=64, intermediate=512,
            vocab=2048, experts=min(full.experts, 8), active=min(full.active, 2),
        )  # fmt: skip
        work = next(w for w in workloads(shape.vocab, TINY) if w.kind == "mixed")
        with tempfile.TemporaryDirectory() as root:
            folder = model_folder(Path(root), name, {**shape.config(), "torch_dtype": "float32"})
            config = EngineConfig(
                model=str(folder),
                device=device,
                dtype="float32",
                max_model_len=256,
                max_num_seqs=8,
                max_batched_tokens=64,
                memory_fraction=0.3,
            )
            ours += tokens(config, plugins, work.prompts, work.outputs, "dummy")
            theirs += tokens(
                on_cpu(config), cpu_plugins(plugins), work.prompts, work.outputs, "dummy"
            )
    return shared_share(ours, theirs)
