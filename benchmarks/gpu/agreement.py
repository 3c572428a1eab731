"""Whether two devices say the same: greedy tokens of one engine on each, on a small real model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from session import Session

from inferplane.checkpoint import open_checkpoint
from inferplane.interfaces import EngineConfig
from inferplane.tokenization.tokenizer import load_tokenizer

__all__ = ["cpu_plugins", "on_cpu", "real_agreement", "shared_share", "tokens"]

_PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "The three primary colours are",
    "To bake bread you need flour, water, yeast and",
    "In 1969 the first people walked on",
    "Photosynthesis is the process by which",
)
_NEW_TOKENS = 48


def real_agreement(
    model: str, device: str, plugins: tuple[str, ...] | None
) -> dict[str, dict[str, Any]]:
    """For each way of keeping the weights: the share of equal tokens, and how long both agree.

    "float32": dequantised on both. "as stored": the checkpoint's own integers, by
    each device's own kernels.
    """
    tokenizer = load_tokenizer(open_checkpoint(Path(model)))
    prompts = [list(tokenizer.encode(text)) for text in _PROMPTS]
    outputs = [_NEW_TOKENS] * len(prompts)
    found: dict[str, dict[str, Any]] = {}
    ways = {"float32": ("float32", "none"), "as stored": ("bfloat16", "auto")}
    for way, (dtype, quantization) in ways.items():
        config = EngineConfig(
            model=model,
            device=device,
            dtype=dtype,
            quantization=quantization,
            max_model_len=256,
            max_num_seqs=8,
            max_batched_tokens=256,
            memory_fraction=0.3,
        )
        ours = tokens(config, plugins, prompts, outputs)
        theirs = tokens(on_cpu(config), cpu_plugins(plugins), prompts, outputs)
        found[way] = {
            "share before the first difference": shared_share(ours, theirs),
            "requests alike to the end": sum(a == b for a, b in zip(ours, theirs, strict=True)),
            "requests": len(prompts),
            "a continuation": tokenizer.decode(ours[0]),
        }
    return found


def tokens(
    config: EngineConfig,
    plugins: tuple[str, ...] | None,
    prompts: list[list[int]],
    outputs: list[int],
    load_format: str = "auto",
) -> list[list[int]]:
    """What an engine of its own generates."""
    session = Session(config, plugins, load_format=load_format)
    _, found = session.generate(prompts, outputs)
    session.close()
    return found


def shared_share(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Share of all tokens that come before their request's first difference."""
    same = total = 0
    for a, b in zip(ours, theirs, strict=True):
        same += next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        total += len(a)
    return same / total


def on_cpu(config: EngineConfig) -> EngineConfig:
    """The same for the processor."""
    return replace(config, device="cpu")


def cpu_plugins(plugins: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The processor's plugin by module where plugins are given by module."""
    return None if plugins is None else ("inferplane_cpu.plugin",)
