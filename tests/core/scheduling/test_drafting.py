"""N-gram drafts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inferplane.scheduling.drafting import NgramDrafter


def test_what_followed_last_time_is_proposed():
    assert NgramDrafter().propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == [4, 5]


def test_the_longest_match_wins_and_then_the_latest():
    text = [1, 2, 3, 7, 2, 3, 8, 2, 3, 9, 1, 2, 3]
    assert NgramDrafter().propose(text, 1) == [7]
    assert NgramDrafter().propose([2, 3, 7, 2, 3, 8, 5, 2, 3], 1) == [8]


def test_nothing_is_proposed_without_a_match():
    assert NgramDrafter().propose([1, 2, 3, 4], 4) == []
    assert NgramDrafter().propose([1], 4) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 5))
def test_drafts_depend_on_the_tokens_alone_not_on_when_they_came(tokens, count):
    stepwise = NgramDrafter()
    for end in range(1, len(tokens) + 1):
        drafts = stepwise.propose(tokens[:end], count)
        assert drafts == NgramDrafter().propose(tokens[:end], count)
        assert len(drafts) <= count
