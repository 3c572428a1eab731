"""Rows for the op `sample/1`, and what is wrong with a kernel's answers. R rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from inferplane.interfaces import Array, SamplingBatch
from inferplane.ops.sampling import SamplingTensors, plan_sampling
from inferplane.sampling.host_sampler import draw, take_rows
from inferplane.testing.conformance.drawing import Draw, DrawingRow, sampling_batch
from inferplane.testing.conformance.parts import Parts

__all__ = ["SAMPLE_DRAWS", "agreement", "sample_faults"]

VOCAB = 384
NUM_ROWS = 24

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


def sample_faults(run: Callable[..., Any], parts: Parts) -> list[str]:
    """One line for each case in which a `sample/1` kernel draws something else than the oracle."""
    faults = []
    for name, logits_RV, sampling in _cases():
        want, got = draw(logits_RV, sampling), _sampled(run, logits_RV, sampling, parts)
        failed = set(want.failed.tolist())
        for row in range(len(logits_RV)):
            token = int(got[row])
            if row in failed:
                if token != -1:
                    faults.append(f"{name}, row {row}: token {token} of logits that are not finite")
            elif not agreement(logits_RV[row : row + 1], _row(sampling, row), token):
                faults.append(f"{name}, row {row}: {token} instead of {want.token_ids[row]}")
    return faults


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


def _cases() -> Iterator[tuple[str, Array, SamplingBatch]]:
    rng = np.random.default_rng(7)
    for name, how in SAMPLE_DRAWS.items():
        logits_RV = rng.normal(0, 2.5, (NUM_ROWS, VOCAB)).astype(np.float32)
        yield name, logits_RV, _batch([how] * NUM_ROWS, rng)
    logits_RV = rng.normal(0, 2.5, (len(SAMPLE_DRAWS), VOCAB)).astype(np.float32)
    yield "every kind in one batch", logits_RV, _batch(list(SAMPLE_DRAWS.values()), rng)
    ties_RV = np.zeros((3, VOCAB), np.float32)
    ties_RV[1, [200, 17, 350]] = 5.0
    ties_RV[2, -1] = 1.0
    yield "ties", ties_RV, _batch([Draw()] * 3, rng)
    broken_RV = rng.normal(0, 1, (4, VOCAB)).astype(np.float32)
    broken_RV[1, 5] = np.nan
    broken_RV[2, 7] = np.inf
    yield "rows that are not finite", broken_RV, _batch([Draw(), Draw(), Draw(), Draw()], rng)


def _batch(draws: list[Draw], rng: np.random.Generator) -> SamplingBatch:
    rows = []
    for number, how in enumerate(draws):
        tokens = rng.integers(0, VOCAB, 30).tolist()
        seeded = Draw(**{**vars(how), "seed": 1000 + number})
        rows.append(DrawingRow(seeded, tokens, 12, 30 + number))
    return sampling_batch(rows)


def _row(sampling: SamplingBatch, row: int) -> SamplingBatch:
    return take_rows(sampling, np.array([row]))


def _sampled(
    run: Callable[..., Any], logits_RV: Array, sampling: SamplingBatch, parts: Parts
) -> Array:
    plan = plan_sampling(sampling, len(logits_RV))
    with parts.runtime.guard():
        arrays = parts.runtime.to_device(dict(plan.arrays), None)
        logits = torch.from_numpy(logits_RV.copy()).to(parts.torch_device)
        tensors = SamplingTensors(
            **arrays,
            num_logprobs=plan.num_logprobs,
            greedy=plan.greedy,
            truncated=plan.truncated,
        )
        ids, _ = run(logits, tensors)
    return np.asarray(ids.cpu().numpy())
