import numpy as np
import pytest

from inferplane.interfaces import Ragged, SamplingBatch
from inferplane.sampling.host_sampler import draw, log_softmax, process_logits, score, take_rows
from inferplane.sampling.philox import uniforms


def params(rows: int, **changes) -> SamplingBatch:
    given = {
        "temperature": np.ones(rows, np.float32),
        "top_k": np.zeros(rows, np.int32),
        "top_p": np.ones(rows, np.float32),
        "min_p": np.zeros(rows, np.float32),
        "seed": np.arange(rows, dtype=np.uint64) + 17,
        "position": np.full(rows, 5, np.uint64),
        "num_logprobs": np.full(rows, -1, np.int32),
    }
    for name, value in changes.items():
        held = given.get(name)
        if held is not None and not isinstance(value, np.ndarray):
            value = np.full(rows, value, held.dtype)
        given[name] = value
    return SamplingBatch(**given)


def same_logits(row: list[float], rows: int) -> np.ndarray:
    return np.tile(np.array(row, np.float32), (rows, 1))


def support(logits: list[float], **changes) -> set[int]:
    rows = 4000
    drawn = draw(
        same_logits(logits, rows), params(rows, seed=np.arange(rows, dtype=np.uint64), **changes)
    )
    return set(drawn.token_ids.tolist())


def test_temperature_zero_takes_the_lowest_of_equal_best_ids() -> None:
    drawn = draw(same_logits([1.0, 3.0, 3.0, 0.0], 2), params(2, temperature=0.0))
    assert drawn.token_ids.tolist() == [1, 1]


def test_draws_follow_the_softmax() -> None:
    logits, rows = [0.0, 1.0, 2.0, -1.0], 100_000
    drawn = draw(
        same_logits(logits, rows), params(rows, seed=np.arange(rows, dtype=np.uint64))
    ).token_ids
    expected = np.exp(log_softmax(np.array(logits))) * rows
    chi_squared = ((np.bincount(drawn, minlength=4) - expected) ** 2 / expected).sum()
    assert chi_squared < 16.3  # p = 0.001 at 3 degrees of freedom


def test_the_token_is_the_first_whose_sum_exceeds_the_uniform_number() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3]], np.float32))
    for position in range(200):
        u = uniforms(np.array([17], np.uint64), np.array([position], np.uint64))[0]
        sampling = params(1, position=np.array([position], np.uint64))
        expected = 1 if u < 0.5 else 2 if u < 0.8 else 0
        assert draw(logits, sampling).token_ids[0] == expected


def test_top_k_keeps_exactly_k_with_ties_to_the_lowest_ids() -> None:
    assert support([1.0, 2.0, 1.0, 1.0], top_k=2) == {0, 1}
    assert support([0.0, -0.0, 0.0], top_k=2) == {0, 1}


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    logits = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    assert support(logits, top_p=0.5) == {0}
    assert support(logits, top_p=0.51) == {0, 1}
    assert support(logits, top_p=0.9) == {0, 1, 2}


def test_top_p_counts_what_top_k_left() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert support(logits, top_k=2, top_p=0.56) == {0}
    assert support(logits, top_p=0.56) == {0, 1}


def test_min_p_drops_what_is_below_its_share_of_the_best() -> None:
    logits = np.log([0.5, 0.26, 0.14, 0.1]).tolist()
    assert support(logits, min_p=0.5) == {0, 1}
    assert support(logits, min_p=0.25) == {0, 1, 2}


def test_min_p_and_top_k_use_logits_after_temperature() -> None:
    logits = np.log([0.5, 0.25]).tolist()
    assert support(logits, min_p=0.3, temperature=1.0) == {0, 1}
    assert support(logits, min_p=0.3, temperature=0.5) == {0}


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 501)).astype(np.float32)
    sampling = params(64, top_k=50, top_p=0.9, min_p=0.01)
    together = draw(logits, sampling).token_ids
    for row in range(64):
        alone = draw(logits[row : row + 1], take_rows(sampling, np.array([row])))
        assert alone.token_ids[0] == together[row]


def test_repetition_counts_the_prompt_and_presence_only_the_output() -> None:
    seen = Ragged(np.array([0, 3]), np.array([0, 1, 2]), np.array([0, 1, 3]))
    sampling = params(1, penalties=np.array([[0.5, 0.25, 2.0]], np.float32), seen=seen)
    processed = process_logits(np.array([[2.0, 4.0, -1.0, 5.0]], np.float32), sampling)
    assert processed.tolist() == [[1.0, 2.0 - 0.25 - 0.5, -2.0 - 0.75 - 0.5, 5.0]]


def test_bias_comes_before_penalties() -> None:
    one = np.array([0, 1])
    sampling = params(
        1,
        bias=Ragged(one, np.array([0]), np.array([3.0], np.float32)),
        seen=Ragged(one, np.array([0]), np.array([1])),
        penalties=np.array([[0.0, 0.0, 2.0]], np.float32),
    )
    assert process_logits(np.array([[-1.0, 0.0]], np.float32), sampling).tolist() == [[1.0, 0.0]]


def test_several_biases_on_one_id_add_up() -> None:
    bias = Ragged(np.array([0, 2]), np.array([1, 1]), np.array([1.0, 2.0], np.float32))
    assert process_logits(np.zeros((1, 2), np.float32), params(1, bias=bias)).tolist() == [[0, 3]]


def test_bitmask_allows_exactly_the_set_bits() -> None:
    mask = np.zeros((1, 2), np.uint32)
    mask[0, 1] = 1 << 3
    processed = process_logits(np.zeros((1, 40), np.float32), params(1, bitmask=mask))
    assert np.flatnonzero(processed[0] == 0.0).tolist() == [35]


@pytest.mark.parametrize("bad", [np.nan, np.inf, "all forbidden"])
def test_a_row_that_is_not_finite_fails_and_leaves_its_neighbours(bad) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 9)).astype(np.float32)
    healthy = draw(logits, params(3, num_logprobs=2))
    logits[1] = -np.inf if bad == "all forbidden" else logits[1]
    logits[1, 4] = bad if bad != "all forbidden" else -np.inf
    drawn = draw(logits, params(3, num_logprobs=2))
    assert drawn.failed.tolist() == [1]
    assert drawn.token_ids[[0, 2]].tolist() == healthy.token_ids[[0, 2]].tolist()
    assert drawn.token_ids[1] == 0


def test_a_single_finite_logit_is_drawn() -> None:
    logits = np.full((1, 5), -np.inf, np.float32)
    logits[0, 3] = -80.0
    drawn = draw(logits, params(1))
    assert drawn.token_ids.tolist() == [3] and not len(drawn.failed)


def test_a_mask_that_leaves_nothing_fails_the_row() -> None:
    drawn = draw(np.zeros((1, 32), np.float32), params(1, bitmask=np.zeros((1, 1), np.uint32)))
    assert drawn.failed.tolist() == [0]


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = np.array([[1.0, 2.0, 0.5]], np.float32)
    bias = Ragged(np.array([0, 1]), np.array([2]), np.array([100.0], np.float32))
    drawn = draw(logits, params(1, temperature=0.0, num_logprobs=2, bias=bias))
    assert drawn.logprobs is not None
    assert drawn.logprobs.ids.tolist() == [[2, 1, 0]]
    assert np.allclose(drawn.logprobs.values[0], log_softmax(logits)[0][[2, 1, 0]], atol=1e-6)
    assert drawn.logprobs.ranks is not None and drawn.logprobs.ranks.tolist() == [3]


def test_scores_without_alternatives_hold_the_asked_id_alone() -> None:
    scored = score(np.array([[1.0, 2.0]], np.float32), np.array([0]), 0)
    assert scored.ids.tolist() == [[0]]
    assert np.allclose(np.exp(scored.values), 1 / (1 + np.e))


def test_order_matches_a_stable_sort_for_random_bits() -> None:
    rng = np.random.default_rng(2)
    logits = rng.choice(rng.normal(size=40), size=(1, 300)).astype(np.float32)
    scored = score(logits, np.array([0]), 300)
    assert scored.ids[0, 1:].tolist() == np.argsort(-logits[0], kind="stable").tolist()
