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
from inferplane.testing.conformance.draws import SAMPLE_DRAWS, VOCAB, agreement
from inferplane.testing.conformance.parts import Parts

__all__ = ["sample_faults"]

NUM_ROWS = 24


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
