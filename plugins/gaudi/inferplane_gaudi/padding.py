"""How much of the work is padding, by policy of buckets: `python -m inferplane_gaudi.padding`.

Runs the shapes of a mix of chats through the buckets, no model and no device.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
) -> Padding:
    """All requests wait at first; a free lane takes the next prompt, else all lanes decode."""
    found = Padding()
    waiting = list(requests)
    running: list[list[int]] = []  # [context, tokens to go]
    while waiting or running:
        if waiting and len(running) < max_num_seqs:
            prompt, output = waiting.pop()
            for start in range(0, prompt, max_step_tokens):
                _prompt(found, policy, start, min(max_step_tokens, prompt - start))
            running.append([prompt, output])
            continue
        _decode(found, policy, [context + 1 for context, _ in running])
        running = [[context + 1, left - 1] for context, left in running if left > 1]
    return found


def _prompt(found: Padding, policy: StepBuckets, start: int, count: int) -> None:
    end = start + count
    bucket = policy.select(StepShape(count, 1, 0, count, end, -(-end // _BLOCK_SIZE)))
    assert bucket is not None, "prompts are cut to what the buckets hold"
    _add(found.prompt_tokens, count, bucket.num_tokens)
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
    for name, ladder in LADDERS.items():
        policy = StepBuckets(seqs, tokens, length, _BLOCK_SIZE, ladder)
        found = measure(policy, chats(count, length), seqs, tokens)
        shares = ", ".join(f"{what} {share:.1%}" for what, share in found.shares().items())
        print(
            f"{name}: {len(policy.buckets())} buckets, {len(found.buckets)} used in "
            f"{found.steps} steps; padding: {shares}"
        )


if __name__ == "__main__":
    _main()
