"""The prompts of the recorded one-GPU baseline, token for token.

One random stream feeds all workloads in this order, so each is drawn even when it is not run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["FULL", "TINY", "Sizes", "Workload", "check_sums", "workloads"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large each workload is."""

    warm_up: tuple[int, int, int] = (8, 100, 16)
    """Requests, tokens in, tokens out."""
    single: tuple[int, int] = (512, 256)
    many: int = 256
    low: int = 100
    high: int = 1024
    fixed_out: int = 256
    long: tuple[int, int] = (16, 8192)
    prefix: tuple[int, int, int] = (64, 4096, 64)
    """Requests, shared tokens, own tokens and tokens out."""


FULL = Sizes()
TINY = Sizes((2, 10, 4), (24, 8), 6, 5, 40, 6, (2, 200), (4, 64, 8))


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that all arrive at once; greedy, the end of sequence ignored."""

    kind: str
    """What it is compared under; "" = not reported."""
    prompts: list[list[int]]
    outputs: list[int]
    cached: int = 0
    """Leading prompt tokens that an earlier workload left in the prefix cache."""

    @property
    def tokens_in(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def tokens_out(self) -> int:
        return sum(self.outputs)


def workloads(vocab: int, sizes: Sizes = FULL) -> Iterator[Workload]:
    """In the order in which the baseline ran them, from one `random.Random(0)`."""
    stream = random.Random(0)

    def draw(count: int) -> list[int]:
        return [stream.randint(5, vocab - 10) for _ in range(count)]

    count, length, most = sizes.warm_up
    yield Workload("", [draw(length) for _ in range(count)], [most] * count)
    length, most = sizes.single
    for _ in range(2):
        yield Workload("batch 1", [draw(length)], [most])
    for _ in range(2):
        yield Workload("first token", [draw(length)], [1])
    yield _mixed(stream, draw, sizes)
    fixed = [draw(sizes.high) for _ in range(sizes.many)]
    yield Workload("fixed", fixed, [sizes.fixed_out] * sizes.many)
    count, length = sizes.long
    yield Workload("prefill", [draw(length) for _ in range(count)], [1] * count)
    count, shared, own = sizes.prefix
    prefix = draw(shared)
    yield Workload("", [prefix + draw(8)], [1])
    yield Workload("prefix", [prefix + draw(own) for _ in range(count)], [own] * count, shared)


def _mixed(stream: random.Random, draw: Callable[[int], list[int]], sizes: Sizes) -> Workload:
    prompts = [draw(stream.randint(sizes.low, sizes.high)) for _ in range(sizes.many)]
    return Workload("mixed", prompts, [stream.randint(sizes.low, sizes.high) for _ in prompts])


_SUMS = {128256: (147_465, 147_690), 151936: (141_754, 149_703)}


def check_sums(vocab: int, mixed: Workload) -> None:
    """Stop when the mixed workload is not the baseline's: nothing could be compared."""
    found = mixed.tokens_in, mixed.tokens_out
    if vocab in _SUMS and found != _SUMS[vocab]:
        raise SystemExit(f"mixed has {found} tokens in and out, the baseline {_SUMS[vocab]}")
