"""A budget of thoughts: counted from the emitted tokens alone, ended by the end marker."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplane.engine.row_extras import row_extras
from inferplane.engine.thinking import ThinkingState
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams, Thinking
from inferplane.scheduling.sequence import Sequence

PROMPT = [9, 9]
START, END = (1,), (2, 3)


def state(budget: int, *, begun: bool = True, start: tuple[int, ...] = START) -> ThinkingState:
    limit = Thinking(budget=budget, start=start, end=END, begun=begun)
    return ThinkingState(limit, len(PROMPT))


def written(state: ThinkingState, wishes: list[int]) -> list[int]:
    """The output of a model with these wishes, whose forced tokens are obeyed."""
    made: list[int] = []
    for wish in wishes:
        due = state.due([*PROMPT, *made])
        made.append(wish if due < 0 else END[due])
    state.due([*PROMPT, *made])
    return made


@pytest.mark.parametrize("budget", range(4))
def test_thoughts_end_after_their_budget(budget: int) -> None:
    made = written(state(budget), [7] * 8)
    assert made == [7] * budget + [*END] + [7] * (6 - budget)


def test_thoughts_that_end_by_themselves_are_left_alone() -> None:
    wishes = [7, *END, 7, 7, 7, 7]
    counted = state(3)
    assert written(counted, wishes) == wishes
    assert (counted.thinking, counted.spent) == (False, 1)


def test_a_marker_that_was_begun_is_completed_not_repeated() -> None:
    assert written(state(2), [7, 2, 7, 7, 7]) == [7, 2, 3, 7, 7]


def test_a_marker_of_one_token_ends_it() -> None:
    limited = ThinkingState(Thinking(budget=1, end=(2,), begun=True), len(PROMPT))
    assert [limited.due([*PROMPT, *[7] * n]) for n in range(2)] == [-1, 0]
    assert limited.due([*PROMPT, 7, 2]) == -1


def test_an_output_may_begin_to_think_by_its_start_marker_alone() -> None:
    start = (1, 4)
    assert written(state(1, begun=False, start=start), [1, 4, 7, 7, 7, 7]) == [1, 4, 7, *END, 7]
    for wishes in ([7, 1, 4, 7, 7, 7], [1, 7, 1, 4, 7, 7]):
        assert written(state(1, begun=False, start=start), wishes) == wishes
    assert written(state(0, begun=False, start=()), [7] * 4) == [7] * 4


@given(
    st.lists(st.sampled_from([1, 2, 3, 7]), max_size=24),
    st.integers(0, 8),
    st.booleans(),
    st.integers(0, 24),
)
def test_a_preempted_sequence_goes_on_where_it_stood(
    wishes: list[int], budget: int, begun: bool, cut: int
) -> None:
    made = written(state(budget, begun=begun), wishes)
    again = state(budget, begun=begun)
    again.due([*PROMPT, *made[:cut]])
    for end in range(cut, len(made) + 1):
        due = again.due([*PROMPT, *made[:end]])
        assert due < 0 or end == len(made) or made[end] == END[due]
    assert again.spent <= budget + len(END)


def test_a_forced_token_is_the_only_one_left_whatever_else_is_asked() -> None:
    params = SamplingParams(
        allowed_token_ids=(7,),
        logit_bias={2: -100.0},
        thinking=Thinking(budget=1, end=END, begun=True),
    )
    request = Request(request_id="a", prompt_ids=tuple(PROMPT), sampling=params)
    extras = row_extras(Sequence(request, 0.0, list(PROMPT), max_len=64), False, 40)
    assert extras is not None
    left, biased = [], []
    for made in ([], [7], [7, 2], [7, 2, 3]):
        mask = extras.mask_after([*PROMPT, *made])
        assert mask is not None
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        left.append(np.flatnonzero(bits).tolist())
        biased.append(len(extras.bias([*PROMPT, *made], 3)[0]))
    assert (left, biased) == ([[7], [2], [3], [7]], [1, 0, 0, 1])
