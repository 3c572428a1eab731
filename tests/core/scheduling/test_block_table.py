"""Positions and blocks."""

from __future__ import annotations

import pytest

from inferplane.errors import CapacityError
from inferplane.interfaces import KVGroup
from inferplane.scheduling.block_table import (
    check_capacity,
    largest_length,
    max_concurrency,
    window_cap,
    worst_case_blocks,
)

FULL, WINDOW = KVGroup(), KVGroup(window=1024)


@pytest.mark.behaviour("S38")
def test_the_cap_of_a_window_grows_with_the_tokens_in_flight():
    assert window_cap(64, 128, 16) == 13
    assert window_cap(1024, 1024, 16) == 129
    assert window_cap(1024, 2048, 16) == 193
    assert worst_case_blocks(512, [FULL, KVGroup(window=64)], 16, 128) == 32 + 13


@pytest.mark.behaviour("S39")
@pytest.mark.parametrize(
    ("usable", "groups", "expected"),
    [(1536, [FULL], 1.5), (387, [WINDOW], 3.0), (3459, [FULL, WINDOW], 3.0)],
)
def test_concurrency_is_pool_over_worst_case(usable, groups, expected):
    assert max_concurrency(usable, groups, 16, 1024, 16384) == expected
    check_capacity(
        usable + 1,
        groups,
        16,
        in_flight_tokens=1024,
        max_model_len=16384,
        block_bytes=1,
    )


def test_a_pool_that_cannot_hold_one_request_is_refused_with_what_would_fit():
    with pytest.raises(
        CapacityError, match=r"64 KV blocks \(6400 bytes\).*63 \(6300 bytes\).*1008"
    ):
        check_capacity(64, [FULL], 16, in_flight_tokens=256, max_model_len=1024, block_bytes=100)


def test_the_largest_length_is_the_last_that_fits():
    length = largest_length(10, [FULL], 16, 64, 4096)
    assert length == 160
    assert worst_case_blocks(length, [FULL], 16, 64) <= 10
    assert worst_case_blocks(length + 1, [FULL], 16, 64) > 10
