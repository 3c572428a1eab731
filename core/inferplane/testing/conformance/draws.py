"""Kinds of draws that samplers get wrong, and when a drawn token is right. V vocabulary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inferplane.interfaces import Array, SamplerCaps, SamplingBatch
from inferplane.sampling.host_sampler import draw
from inferplane.testing.conformance.drawing import Draw

__all__ = ["SAMPLE_DRAWS", "VOCAB", "agreement", "within"]

VOCAB = 384

SAMPLE_DRAWS: dict[str, Draw] = {
    "greedy": Draw(),
    "temperature": Draw(temperature=0.7),
    "hot": Draw(temperature=3.0),
    "top_k": Draw(temperature=1.0, top_k=5),
    "top_k one": Draw(temperature=1.0, top_k=1),
    "top_p": Draw(temperature=1.2, top_p=0.7),
    "min_p": Draw(temperature=1.5, min_p=0.2),
    "all cuts": Draw(temperature=1.1, top_k=40, top_p=0.9, min_p=0.05),
    "penalties": Draw(temperature=0.9, penalties=(0.5, 0.4, 1.3)),
    "greedy penalties": Draw(penalties=(1.5, 1.0, 1.8)),
    "bias": Draw(temperature=1.0, bias={3: 4.0, 9: -np.inf, 20: 2.5}),
    "mask": Draw(temperature=1.0, allowed=frozenset(range(40, 70)), vocab_size=VOCAB),
    "logprobs": Draw(temperature=1.0, num_logprobs=4),
}
"""What each row of a case asks; the seed is the row's number."""


def within(how: Draw, caps: SamplerCaps) -> Draw:
    """The same draw, with a top-k that the device takes: the engine sends it no other."""
    most = caps.max_top_k
    if most is None or not how.temperature or 0 < how.top_k <= most:
        return how
    return replace(how, top_k=most)


def agreement(logits_1V: Array, sampling: SamplingBatch, token: int) -> bool:
    """Whether a token is what the oracle draws, or would draw had the logits been rounded so.

    Float32 sums may fall on the other side of a random number or a cut; the oracle is asked again
    with logits moved by a few units in the last place, in either direction and at random.
    """
    if int(draw(logits_1V, sampling).token_ids[0]) == token:
        return True
    rng = np.random.default_rng(token)
    for scale in (1e-6, 1e-5):
        for _ in range(8):
            noise = np.asarray(rng.uniform(-scale, scale, logits_1V.shape), np.float32)
            moved = logits_1V + noise * np.maximum(np.abs(logits_1V), np.float32(1.0))
            if int(draw(moved, sampling).token_ids[0]) == token:
                return True
    return False
