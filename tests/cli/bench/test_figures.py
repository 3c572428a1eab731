"""Laws of figures: percentiles, time per token, goodput; failures are never averaged in."""

import math

import pytest

from inferplane.cli.bench.figures import Timing, goodput, percentile, summarise


def timing(first: float, end: float, tokens: int = 11, error: str = "") -> Timing:
    return Timing(first, end, (0.1, 0.3), tokens, error)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4), (0, 1)])
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: int) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def test_a_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_time_per_token_leaves_the_first_token_out() -> None:
    assert timing(1.0, 2.0).per_token_s == pytest.approx(0.1)
    assert timing(1.0, 1.0, tokens=1).per_token_s == 0.0


def test_goodput_counts_requests_that_met_both_objectives() -> None:
    timings = [
        timing(0.5, 1.0),
        timing(1.5, 2.0),  # first token too late
        timing(0.5, 9.0),  # tokens too slow
        timing(0.5, 1.0, error="refused"),
    ]
    assert goodput(timings, took_s=2.0, first_s=1.0, per_token_s=0.1) == 0.5


def test_failed_requests_are_counted_and_left_out_of_every_spread() -> None:
    figures = summarise([timing(1.0, 2.0), timing(0.0, 0.0, 0, "refused")], 4.0, 1.0, 0.1)
    assert (figures["requests"], figures["failed"]) == (2, 1)
    assert figures["first_error"] == "refused"
    assert figures["output_tokens_per_s"] == 11 / 4.0
    assert figures["ttft_ms"] == {"mean": 1000.0, "p50": 1000.0, "p90": 1000.0, "p99": 1000.0}


def test_gaps_of_all_requests_make_the_inter_token_latency() -> None:
    figures = summarise([timing(1.0, 2.0), timing(1.0, 2.0)], 4.0, 1.0, 0.1)
    assert figures["itl_ms"]["mean"] == pytest.approx(200.0)  # type: ignore[index]
