"""The standing workloads as token ids: the same for us and every peer, made from one seed.

Knows nothing of who runs them. Lengths and orders follow docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

__all__ = ["Prompt", "Workload", "fixed", "mixed", "online"]

_FIRST_ID, _LAST_ID = 5, 40_000
"""Ids that are ordinary tokens in every vocabulary measured here."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: ids in, how many tokens out, and when it comes."""

    ids: tuple[int, ...]
    num_output: int
    arrives_s: float = 0.0
    """Seconds after the start of the run; 0 for offline work."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests with a name; `concurrency` 0 = all at once or as they come."""

    name: str
    prompts: tuple[Prompt, ...]
    concurrency: int = 0

    def within(self, num_ids: int) -> Workload:
        """The same work for a model that knows ids below `num_ids` only; larger ones are folded."""
        prompts = tuple(
            replace(prompt, ids=tuple(_folded(id, num_ids) for id in prompt.ids))
            for prompt in self.prompts
        )
        return replace(self, prompts=prompts)

    @property
    def num_input(self) -> int:
        """Prompt tokens in all."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def num_output(self) -> int:
        """Tokens to generate in all."""
        return sum(prompt.num_output for prompt in self.prompts)


def mixed(
    num_requests: int = 64,
    lengths: tuple[int, int] = (25, 256),
    concurrency: int = 32,
    seed: int = 0,
) -> Workload:
    """W3: uniform input and output lengths."""
    random = Random(seed)
    ids = [_ids(random, random.randint(*lengths)) for _ in range(num_requests)]
    outputs = [random.randint(*lengths) for _ in range(num_requests)]
    return Workload(f"W3 mix {num_requests}", _paired(ids, outputs), concurrency)


def fixed(num_requests: int, num_input: int, num_output: int, seed: int = 0) -> Workload:
    """W4: all alike, all at once."""
    random = Random(seed)
    ids = [_ids(random, num_input) for _ in range(num_requests)]
    name = f"W4 {num_requests} x ({num_input}, {num_output})"
    return Workload(name, _paired(ids, [num_output] * num_requests))


def online(
    num_requests: int = 120, rate: float = 4.0, seed: int = 0, longest: int = 1024
) -> Workload:
    """W5: log-normal lengths near those of ShareGPT, Poisson arrivals; rate 0 = all at once."""
    random = Random(seed)
    ids = [_ids(random, _lognormal(random, 4.9, 0.95, longest)) for _ in range(num_requests)]
    outputs = [_lognormal(random, 4.8, 0.85, longest) for _ in range(num_requests)]
    arrivals, now = [], 0.0
    for _ in range(num_requests):
        arrivals.append(now)
        now += random.expovariate(rate) if rate else 0.0
    pace = f"{rate:g}/s" if rate else "all at once"
    return Workload(f"W5 online {num_requests} at {pace}", _paired(ids, outputs, arrivals))


def _folded(id: int, num_ids: int) -> int:
    return id if id < num_ids else _FIRST_ID + id % (num_ids - _FIRST_ID)


def _ids(random: Random, length: int) -> tuple[int, ...]:
    return tuple(random.randint(_FIRST_ID, _LAST_ID) for _ in range(length))


def _lognormal(random: Random, mean: float, deviation: float, longest: int) -> int:
    return min(max(round(random.lognormvariate(mean, deviation)), 4), longest)


def _paired(
    ids: Sequence[tuple[int, ...]], outputs: Sequence[int], arrivals: Sequence[float] = ()
) -> tuple[Prompt, ...]:
    times = arrivals or [0.0] * len(ids)
    return tuple(Prompt(*one) for one in zip(ids, outputs, times, strict=True))
