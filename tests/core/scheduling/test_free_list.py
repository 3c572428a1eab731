"""The free list against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplane.scheduling.free_list import FreeList, LowIdFreeList


def test_a_fresh_pool_hands_out_ids_in_order():
    free = FreeList(5)
    assert [free.pop() for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(IndexError):
        free.pop()


def test_a_block_in_the_middle_is_taken_out_without_disturbing_the_others():
    free = FreeList(6)
    free.remove(3)
    assert free.order() == [1, 2, 4, 5]
    assert len(free) == 4


def test_blocks_without_digest_go_to_the_front_and_others_to_the_back():
    free = FreeList(4)
    for _ in range(3):
        free.pop()
    free.push_hashed(1)
    free.push_unhashed(2)
    free.push_hashed(3)
    assert free.order() == [2, 1, 3]
    free.forget_digest(3)
    assert free.order() == [3, 2, 1]


def test_low_ids_come_first_whatever_the_order_of_release():
    free = LowIdFreeList(6)
    taken = [free.pop() for _ in range(5)]
    for block in (4, 2, 5):
        free.push_unhashed(block)
    free.push_hashed(1)
    free.push_hashed(3)
    assert taken == [1, 2, 3, 4, 5]
    assert free.order() == [2, 4, 5, 1, 3]
    free.forget_digest(3)
    assert [free.pop() for _ in range(5)] == [2, 3, 4, 5, 1]


@given(st.lists(st.tuples(st.sampled_from(("pop", "remove", "front", "back")), st.integers(0, 30))))
def test_the_list_behaves_like_a_plain_one(actions):
    free, model, out = FreeList(12), list(range(1, 12)), []
    for action, number in actions:
        if action == "pop" and model:
            out.append(model.pop(0))
            assert free.pop() == out[-1]
        elif action == "remove" and model:
            block = model.pop(number % len(model))
            out.append(block)
            free.remove(block)
        elif action == "front" and out:
            model.insert(0, out.pop(number % len(out)))
            free.push_unhashed(model[0])
        elif action == "back" and out:
            model.append(out.pop(number % len(out)))
            free.push_hashed(model[-1])
        assert free.order() == model
        assert len(free) == len(model)
