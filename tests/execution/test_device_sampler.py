"""The reference of sample/1 draws exactly the tokens of the host sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inferplane.interfaces import Array, Ragged, SamplingBatch
from inferplane.ops.reference.sampling import philox_uniforms, sample
from inferplane.ops.sampling import SamplingTensors, plan_sampling
from inferplane.sampling.host_sampler import draw
from inferplane.sampling.philox import uniforms

ROWS, VOCABULARY = 12, 517


def device(plan_of: SamplingBatch, num_rows: int) -> SamplingTensors:
    plan = plan_sampling(plan_of, num_rows)
    arrays = {name: torch.from_numpy(array.copy()) for name, array in plan.arrays.items()}
    return SamplingTensors(
        **arrays,
        num_logprobs=plan.num_logprobs,
        greedy=plan.greedy,
        truncated=plan.truncated,
    )


def random_logits(seed: int, ties: bool) -> Array:
    logits = np.random.default_rng(seed).normal(0, 4, (ROWS, VOCABULARY)).astype(np.float32)
    return np.round(logits * 4) / 4 if ties else logits


def random_sampling(seed: int) -> SamplingBatch:
    rng = np.random.default_rng(seed)

    def pick(values: tuple[float, ...], dtype: str) -> Array:
        return rng.choice(values, ROWS).astype(dtype)

    counts = rng.integers(0, 6, ROWS)
    start = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    ids = np.concatenate([rng.permutation(VOCABULARY)[:n] for n in counts]).astype(np.int32)
    bits = rng.integers(0, 2**32, (ROWS, math.ceil(VOCABULARY / 32)), dtype=np.uint32)
    return SamplingBatch(
        temperature=pick((0.0, 0.3, 1.0, 1.7), "f4"),
        top_k=pick((0, 1, 5, 40, 1000), "i4"),
        top_p=pick((1.0, 0.9, 0.3, 0.01), "f4"),
        min_p=pick((0.0, 0.05, 0.5), "f4"),
        seed=rng.integers(0, 2**64, ROWS, dtype=np.uint64),
        position=rng.integers(0, 2**34, ROWS).astype(np.uint64),
        num_logprobs=pick((-1, 0, 3, 7), "i4"),
        penalties=rng.uniform(0.2, 1.8, (ROWS, 3)).astype(np.float32),
        seen=Ragged(start, ids, rng.integers(0, 4, len(ids)).astype(np.int32)),
        bias=Ragged(start, ids[::-1].copy(), rng.normal(0, 5, len(ids)).astype(np.float32)),
        bitmask=bits | rng.choice(np.array([0, 2**32 - 1], np.uint32), (ROWS, 1)),
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_every_row_draws_the_token_of_the_host_sampler(seed: int, ties: bool) -> None:
    logits, sampling = random_logits(seed, ties), random_sampling(seed)
    ids, _ = sample(torch.from_numpy(logits), device(sampling, ROWS))
    assert ids.tolist() == draw(logits, sampling).token_ids.tolist()


@pytest.mark.parametrize("ties", [False, True])
def test_log_probabilities_and_ranks_are_those_of_the_host_sampler(ties: bool) -> None:
    logits, sampling = random_logits(3, ties), random_sampling(3)
    expected = draw(logits, sampling).logprobs
    _, logprobs = sample(torch.from_numpy(logits), device(sampling, ROWS))
    asking = np.flatnonzero(sampling.num_logprobs >= 0)
    assert expected is not None and logprobs is not None
    assert len(logprobs.ids) == len(asking)
    np.testing.assert_array_equal(logprobs.ids.numpy(), expected.ids[asking])
    np.testing.assert_allclose(logprobs.values.numpy(), expected.values[asking], atol=1e-5)
    assert expected.ranks is not None
    np.testing.assert_array_equal(logprobs.ranks.numpy(), expected.ranks[asking])


def test_uniforms_are_those_of_the_host_for_any_seed_and_position() -> None:
    rng = np.random.default_rng(0)
    seed = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    position = rng.integers(0, 2**63, 1000, dtype=np.uint64)
    got = philox_uniforms(
        torch.from_numpy(seed.view(np.int64)), torch.from_numpy(position.view(np.int64))
    )
    assert got.tolist() == uniforms(seed, position).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_fails_alone(bad: float) -> None:
    logits, sampling = random_logits(5, False), random_sampling(5)
    healthy, _ = sample(torch.from_numpy(logits), device(sampling, ROWS))
    logits[4, 17] = bad
    ids, _ = sample(torch.from_numpy(logits), device(sampling, ROWS))
    healthy[4] = -1
    assert ids.tolist() == healthy.tolist()


def test_a_row_without_a_candidate_fails() -> None:
    sampling = random_sampling(6)
    assert sampling.bitmask is not None
    sampling.bitmask[2] = 0
    ids, _ = sample(torch.from_numpy(random_logits(6, False)), device(sampling, ROWS))
    assert ids[2] == -1 and (ids[3:] >= 0).all()


def test_padding_rows_are_greedy_and_change_nothing() -> None:
    logits, sampling = random_logits(7, False), random_sampling(7)
    padded = np.concatenate((logits, np.zeros((4, VOCABULARY), np.float32)))
    ids, _ = sample(torch.from_numpy(padded), device(sampling, ROWS + 4))
    assert ids.tolist() == [*draw(logits, sampling).token_ids.tolist(), 0, 0, 0, 0]


def test_an_all_greedy_step_uploads_nothing_and_takes_the_lowest_id_of_a_tie() -> None:
    zeros = np.zeros(ROWS)
    sampling = SamplingBatch(
        *(zeros.astype(t) for t in ("f4", "i4", "f4", "f4", "u8", "u8")),
        num_logprobs=np.full(ROWS, -1, np.int32),
    )
    plan = plan_sampling(sampling, ROWS)
    assert not plan.arrays and plan.greedy
    logits = torch.zeros(ROWS, VOCABULARY)
    logits[:, [40, 300]] = 1.0
    ids, logprobs = sample(logits, SamplingTensors())
    assert ids.tolist() == [40] * ROWS and logprobs is None
