"""The CPU's sampler draws the host sampler's tokens, also where its candidates do not suffice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inferplane.interfaces import Array, SamplingBatch
from inferplane.ops.sampling import SamplingTensors, plan_sampling
from inferplane.sampling.host_sampler import draw
from inferplane_cpu.kernels.sampling import sample

ROWS = 64


def logits_of(spread: float, vocabulary: int, ties: bool) -> Array:
    logits = np.random.default_rng(1).normal(0, spread, (ROWS, vocabulary)).astype(np.float32)
    return np.round(logits * 2) / 2 if ties else logits


def sampling_of(temperature: float, seed: int) -> SamplingBatch:
    rng = np.random.default_rng(seed)

    def pick(values: tuple[float, ...], dtype: str) -> Array:
        return rng.choice(values, ROWS).astype(dtype)

    return SamplingBatch(
        temperature=np.full(ROWS, temperature, np.float32),
        top_k=pick((0, 0, 1, 50, 255, 256, 257, 700), "i4"),
        top_p=pick((1.0, 1.0, 0.95, 0.5, 0.999), "f4"),
        min_p=pick((0.0, 0.0, 0.1, 0.0001), "f4"),
        seed=rng.integers(0, 2**64, ROWS, dtype=np.uint64),
        position=rng.integers(0, 5000, ROWS).astype(np.uint64),
        num_logprobs=pick((-1, 0, 5), "i4"),
    )


def tensors(sampling: SamplingBatch) -> SamplingTensors:
    plan = plan_sampling(sampling, ROWS)
    arrays = {name: torch.from_numpy(array.copy()) for name, array in plan.arrays.items()}
    return SamplingTensors(
        **arrays, num_logprobs=plan.num_logprobs, greedy=plan.greedy, truncated=plan.truncated
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("vocabulary", [100, 256, 3000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0], ids=["flat", "soft", "sharp"])
def test_every_row_draws_the_host_samplers_token(
    spread: float, vocabulary: int, ties: bool
) -> None:
    logits = logits_of(spread, vocabulary, ties)
    for seed in range(4):
        sampling = sampling_of(1.0 + 0.3 * seed, seed)
        ids, _ = sample(torch.from_numpy(logits), tensors(sampling))
        assert ids.tolist() == draw(logits, sampling).token_ids.tolist()


def test_log_probabilities_come_for_the_rows_that_asked() -> None:
    logits, sampling = logits_of(1.0, 500, True), sampling_of(1.0, 9)
    expected = draw(logits, sampling).logprobs
    _, logprobs = sample(torch.from_numpy(logits), tensors(sampling))
    asking = np.flatnonzero(sampling.num_logprobs >= 0)
    assert logprobs is not None and expected is not None
    np.testing.assert_array_equal(logprobs.ids.numpy(), expected.ids[asking])


def test_rows_that_are_not_finite_fail_alone() -> None:
    logits, sampling = logits_of(1.0, 500, False), sampling_of(0.8, 2)
    expected = draw(logits, sampling).token_ids
    logits[[3, 9], 100] = np.nan
    ids, _ = sample(torch.from_numpy(logits), tensors(sampling))
    expected[[3, 9]] = -1
    assert ids.tolist() == expected.tolist()
