"""Laws every shape policy keeps: repeatable, in `buckets`, and large enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplane.interfaces import ShapePolicy, StepShape
from inferplane.shapes import DecodeLadder, Rectangles, TokenGrid
from inferplane.shapes.sizes import decode_sizes

MAX_TOKENS, MAX_SEQS = 512, 100
LADDER = DecodeLadder(MAX_SEQS)
GRID = TokenGrid(MAX_TOKENS, MAX_SEQS)
RECTANGLES = Rectangles(
    decode_batches=(1, 4, 32),
    prefill_batches=(1, 2),
    queries=(128, 256),
    context_blocks=(8, 64),
    max_tokens=MAX_TOKENS,
)
POLICIES = (LADDER, GRID, RECTANGLES)


@st.composite
def shapes(draw: st.DrawFn) -> StepShape:
    seqs = draw(st.integers(1, MAX_SEQS))
    decodes = draw(st.sampled_from((0, seqs, seqs // 2)))
    longest = 1 if decodes == seqs else draw(st.integers(1, MAX_TOKENS - seqs + 1))
    tokens = min(MAX_TOKENS, seqs - 1 + longest)
    return StepShape(tokens, seqs, decodes, longest, longest, draw(st.integers(1, 70)))


@given(shapes(), st.sampled_from(POLICIES))
def test_a_selected_bucket_exists_and_holds_the_step(shape: StepShape, policy: ShapePolicy) -> None:
    bucket = policy.select(shape)
    if bucket is not None:
        assert bucket in policy.buckets() and bucket.holds(shape)
        assert policy.select(shape) == bucket


@given(shapes())
def test_the_token_grid_is_total_within_its_limits(shape: StepShape) -> None:
    assert GRID.admits(shape) and GRID.select(shape) is not None


@given(shapes())
def test_rectangles_select_every_step_they_admit(shape: StepShape) -> None:
    assert (RECTANGLES.select(shape) is not None) == RECTANGLES.admits(shape)


@given(shapes())
def test_no_smaller_rectangle_would_have_held_the_step(shape: StepShape) -> None:
    bucket = RECTANGLES.select(shape)
    holding = [b for b in RECTANGLES.buckets() if b.holds(shape)]
    assert (bucket is None) == (not holding)
    assert bucket is None or bucket.num_tokens == min(b.num_tokens for b in holding)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_buckets_are_distinct_and_their_names_too(policy: ShapePolicy) -> None:
    assert len({str(bucket) for bucket in policy.buckets()}) == len(policy.buckets())


@pytest.mark.parametrize("policy", (LADDER, GRID), ids=lambda p: type(p).__name__)
def test_buckets_come_largest_first(policy: ShapePolicy) -> None:
    sizes = [(bucket.num_tokens, bucket.num_seqs) for bucket in policy.buckets()]
    assert sizes == sorted(sizes, reverse=True)


def test_the_ladder_leaves_steps_with_prefill_unpadded() -> None:
    assert LADDER.select(StepShape(5, 2, 1, 4, 4, 2)) is None


def test_the_ladder_with_drafts_takes_queries_up_to_its_width() -> None:
    bucket = DecodeLadder(8, max_query=3).select(StepShape(7, 3, 3, 3, 40, 9))
    assert bucket is not None and (bucket.num_tokens, bucket.num_seqs) == (12, 4)


def test_decode_sizes_are_fine_at_the_bottom_and_coarse_at_the_top() -> None:
    assert decode_sizes(16) == (1, 2, 4, 8, 16)
    assert decode_sizes(300)[-5:] == (120, 128, 192, 256, 300)


def test_a_mixed_step_has_no_rectangle() -> None:
    assert not RECTANGLES.admits(StepShape(5, 2, 1, 4, 4, 2))
