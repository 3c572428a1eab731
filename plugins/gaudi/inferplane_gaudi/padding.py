"""How much of the work is padding, by policy of buckets: `python -m inferplane_gaudi.padding`.

Runs the shapes of a mix of chats through the buckets, no model and no device.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from inferplane.interfaces import Bucket, StepShape
from inferplane_gaudi.buckets import LADDERS, StepBuckets

__all__ = ["Padding", "chats", "measure"]

_PROMPT, _OUTPUT = (161.0, 1.1), (338.0, 0.9)
"""(mean, sigma of the logarithm): the means of ShareGPT as Kwon et al. state them (SOSP 2023)."""
_BLOCK_SIZE = 128


@dataclass(slots=True)
class Padding:
    """What was asked for, and what ran."""

    steps: int = 0
    buckets: set[Bucket] = field(default_factory=set)
    """Those that some step needed."""
    prompt_steps: int = 0
    """Of `steps`, those of prompts."""
    prompt_tokens: list[int] = field(default_factory=lambda: [0, 0])
    """[real, as run]; the two below likewise."""
    decode_rows: list[int] = field(default_factory=lambda: [0, 0])
    decode_blocks: list[int] = field(default_factory=lambda: [0, 0])

    def shares(self) -> dict[str, float]:
        """What is padding of everything that ran, 0 to 1."""
        pairs = {
            "prompt tokens": self.prompt_tokens,
            "decode rows": self.decode_rows,
            "blocks read by decodes": self.decode_blocks,
        }
        return {name: 1 - real / max(run, 1) for name, (real, run) in pairs.items()}


def chats(count: int, max_model_len: int, seed: int = 0) -> list[tuple[int, int]]:
    """(prompt, output) tokens of `count` requests, log-normal, cut to what a model can hold."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(count):
        prompt = min(_draw(rng, *_PROMPT), max_model_len - 1)
        drawn.append((prompt, min(_draw(rng, *_OUTPUT), max_model_len - prompt)))
    return drawn


def measure(
    policy: StepBuckets,
    requests: Iterable[tuple[int, int]],
    max_num_seqs: int,
    max_step_tokens: int,
    pace: int = 1,
) -> Padding:
    """All requests wait at first; free lanes take the next prompts, else all lanes decode.

    As in the scheduler a step takes prompts in order, a part of one where the whole does not fit,
    and with a prefill interval of `pace` as many steps less one lie between two of prompts.
    """
    found, decodes = Padding(), pace
    waiting = [[prompt, output, 0] for prompt, output in requests]
    running: list[list[int]] = []  # [context, tokens to go]
    while waiting or running:
        free = max_num_seqs - len(running)
        if waiting and free and (decodes >= pace - 1 or not running):
            step = _next_prompts(policy, waiting[-free:], max_step_tokens)
            _prompts(found, policy, step)
            while waiting and waiting[-1][2] == waiting[-1][0]:
                prompt, output, _ = waiting.pop()
                running.append([prompt, output])
            decodes = 0
            continue
        decodes += 1
        _decode(found, policy, [context + 1 for context, _ in running])
        running = [[context + 1, left - 1] for context, left in running if left > 1]
    return found


def _next_prompts(
    policy: StepBuckets, waiting: Sequence[list[int]], most: int
) -> list[tuple[int, int]]:
    """(start, tokens) of each row of a step; `waiting` is [prompt, output, computed], last first,
    and what was computed moves on."""
    step: list[tuple[int, int]] = []
    for request in reversed(waiting):
        prompt, _, start = request
        count = _chunk(policy, step, start, min(prompt - start, most))
        if not count:
            break
        step.append((start, count))
        request[2], most = start + count, most - count
        if request[2] < prompt:
            break
    return step


def _chunk(policy: StepBuckets, step: list[tuple[int, int]], start: int, most: int) -> int:
    """How many of `most` tokens the step takes as well: all, half, a quarter, … or none."""
    while most and not policy.admits(_shape([*step, (start, most)])):
        most //= 2
    return most


def _shape(step: Sequence[tuple[int, int]]) -> StepShape:
    counts = [count for _, count in step]
    ends = [start + count for start, count in step]
    blocks = sum(-(-end // _BLOCK_SIZE) for end in ends)
    return StepShape(sum(counts), len(step), 0, max(counts), max(ends), blocks)


def _prompts(found: Padding, policy: StepBuckets, step: Sequence[tuple[int, int]]) -> None:
    shape = _shape(step)
    bucket = policy.select(shape)
    assert bucket is not None, "prompts are cut to what the buckets hold"
    found.prompt_steps += 1
    _add(found.prompt_tokens, shape.num_tokens, bucket.num_tokens)
    _note(found, bucket)


def _decode(found: Padding, policy: StepBuckets, contexts: Sequence[int]) -> None:
    rows, blocks = len(contexts), sum(-(-context // _BLOCK_SIZE) for context in contexts)
    bucket = policy.select(StepShape(rows, rows, rows, 1, max(contexts), blocks))
    assert bucket is not None, "there are no more lanes than the buckets hold"
    _add(found.decode_rows, rows, bucket.num_seqs)
    _add(found.decode_blocks, blocks, bucket.context_blocks)
    _note(found, bucket)


def _note(found: Padding, bucket: Bucket) -> None:
    found.steps += 1
    found.buckets.add(bucket)


def _add(pair: list[int], real: int, run: int) -> None:
    pair[0] += real
    pair[1] += run


def _draw(rng: random.Random, mean: float, sigma: float) -> int:
    # a log-normal variable of that mean has the median mean * exp(-sigma^2 / 2)
    return max(1, round(mean * rng.lognormvariate(-sigma * sigma / 2, sigma)))


def _main() -> None:
    """Print a row for each policy at the default limits of the engine."""
    seqs, tokens, length, count = 128, 2048, 4096, 1000
    print(f"{count} chats, {seqs} sequences, {tokens} tokens a step, context {length}")
    for (name, ladder), pace in product(LADDERS.items(), (1, 4)):
        policy = StepBuckets(seqs, tokens, length, _BLOCK_SIZE, ladder)
        found = measure(policy, chats(count, length), seqs, tokens, pace)
        shares = ", ".join(f"{what} {share:.1%}" for what, share in found.shares().items())
        print(
            f"{name}, prefill interval {pace}: {len(policy.buckets())} buckets, "
            f"{len(found.buckets)} used in {found.steps} steps, {found.prompt_steps} of prompts; "
            f"padding: {shares}"
        )


if __name__ == "__main__":
    _main()
