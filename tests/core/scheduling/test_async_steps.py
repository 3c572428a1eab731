"""Planning a step before the last one's tokens are known."""

from __future__ import annotations

from collections import deque

import pytest

from inferplane.request import FinishReason
from inferplane.scheduling.plan import SkipReason
from inferplane.scheduling.state import Features

ASYNC = {"async_steps": 1}


def run(b, depth=1, tokens=7, before_update=lambda: None):
    """Keep `depth` steps in flight until nothing is left; all tokens scheduled."""
    in_flight, total = deque(), 0
    while b.scheduler.num_unfinished or in_flight:
        plan = b.schedule()
        if plan:
            in_flight.append(plan)
            total += plan.num_tokens
        assert plan or in_flight
        if len(in_flight) > depth or not plan:
            before_update()
            b.update(in_flight.popleft(), default=tokens)
    return total


@pytest.mark.behaviour("S22")
@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_no_step_is_wasted_at_max_tokens(bench, max_tokens, depth):
    b = bench(limits={"async_steps": depth})
    b.add("a", 30, max_tokens)
    b.add("b", 50, max_tokens)
    assert run(b, depth) == 80 + 2 * (max_tokens - 1)
    assert [len(b.outputs[name]) for name in "ab"] == [max_tokens] * 2
    assert b.blocks.num_free == b.blocks.usable


@pytest.mark.behaviour("S23")
@pytest.mark.parametrize("order", [list(range(10)), [3, 9, 0, 5, 1, 8, 2, 7, 6, 4]])
def test_the_ith_aborted_has_i_outputs(bench, order):
    b = bench(limits=ASYNC)
    for i in range(10):
        b.add(str(i), 20, 20)
    left = [str(i) for i in order]

    def abort_next():
        if left:
            b.finish(left.pop(0))

    run(b, before_update=abort_next)
    assert [len(b.outputs[str(i)]) for i in order] == list(range(10))
    assert {e.finish for e in b.ends.values()} == {FinishReason.ABORT}
    assert b.blocks.num_free == b.blocks.usable


def test_a_decode_goes_on_before_its_token_is_known(bench):
    b = bench(limits=ASYNC)
    b.add("a", 10, 10)
    first = b.schedule()
    second = b.schedule()
    assert [(e.start, e.num_tokens) for e in second.scheduled] == [(10, 1)]
    assert b.scheduler.sequences["a"].placeholders == 2
    b.update(first, {"a": 50})
    b.update(second, {"a": 51})
    assert b.outputs["a"] == [50, 51]


def test_a_token_drawn_after_the_stop_is_dropped(bench):
    b = bench(limits=ASYNC)
    b.add("a", 10, 10)
    first = b.schedule()
    second = b.schedule()
    b.update(first, {"a": 2})
    assert b.ends["a"].finish is FinishReason.STOP
    assert b.update(second, {"a": 9}) == []
    assert b.outputs["a"] == [2]


def test_a_row_whose_input_needs_the_host_sits_out_one_step(bench):
    b = bench(limits=ASYNC)
    b.add("plain", 10, 10)
    b.add("penal", 10, 10, presence_penalty=1.0)
    first = b.schedule()
    second = b.schedule()
    assert b.sizes(second) == {"plain": 1}
    assert second.skipped == {"penal": SkipReason.IN_FLIGHT}
    b.update(first)
    assert b.sizes(b.schedule()) == {"plain": 1, "penal": 1}


def test_with_nothing_left_to_compute_a_request_is_skipped_and_others_go_on(bench):
    b = bench(limits=ASYNC)
    b.add("short", 10, 1)
    b.add("long", 10, 10)
    b.schedule()
    plan = b.schedule()
    assert b.sizes(plan) == {"long": 1}
    assert plan.skipped == {"short": SkipReason.NO_TOKENS}


def test_tokens_in_flight_are_not_hashed(bench):
    b = bench(limits=ASYNC)
    b.add("a", 15, 20)
    first = b.schedule()
    second = b.schedule()
    third = b.schedule()
    assert [e.start for e in third.scheduled] == [16]
    assert len(b.blocks.cache.index) == 0
    b.update(first)
    assert len(b.blocks.cache.index) == 0
    b.update(second)
    assert len(b.blocks.cache.index) == 1
    b.update(third)


@pytest.mark.behaviour("S41")
@pytest.mark.parametrize("how", ["finish", "abort", "preempt"])
def test_blocks_others_may_read_come_back_when_the_newest_step_ended(bench, how):
    b = bench(
        limits=ASYNC,
        pool=12,
        caching=False,
        features=Features(outside_readers=True),
    )
    b.add("a", 80, 60)
    b.add("b", 60, 60)
    first = b.schedule()
    second = b.schedule()
    if how == "preempt":
        b.update(first)
        plans = [second]
        while not (plan := b.schedule()).preempted:
            plans.append(plan)
            b.update(plans.pop(0))
        free = b.blocks.num_free
        assert plan.preempted == ["b"]
        assert b.blocks.pool.num_fenced >= 4
        assert free == 0
        while plans:
            b.update(plans.pop(0))
        assert b.blocks.pool.num_fenced == 0
        assert b.blocks.num_free > 0
        return
    free = b.blocks.num_free
    if how == "finish":
        b.update(first, {"b": 2})
    else:
        b.finish("b")
        b.update(first)
    assert b.blocks.num_free == free
    assert b.scheduler.sequences.keys() == {"a"}
    b.update(second)
    assert b.blocks.num_free == free + 4


@pytest.mark.behaviour("S41")
def test_several_fences_open_in_order(bench):
    b = bench(limits={"async_steps": 2}, caching=False, features=Features(outside_readers=True))
    for name in "abc":
        b.add(name, 40, 60)
    plans = [b.schedule()]
    free = b.blocks.num_free
    b.finish("a")
    plans.append(b.schedule())
    b.finish("b")
    assert b.blocks.num_free == free
    b.update(plans.pop(0))
    assert b.blocks.num_free == free + 3
    b.update(plans.pop(0))
    assert b.blocks.num_free == free + 6


def test_fenced_blocks_are_waited_for_instead_of_preempting(bench):
    b = bench(limits=ASYNC, pool=12, caching=False, features=Features(outside_readers=True))
    b.add("a", 78, 40)
    b.add("b", 50, 60)
    b.add("c", 20, 60)
    first = b.schedule()
    second = b.schedule()
    b.update(first)
    b.finish("c")
    third = b.schedule()
    plan = b.schedule()
    assert plan.preempted == []
    assert plan.skipped["a"] is SkipReason.NO_BLOCKS
    for p in (second, third):
        b.update(p)
    assert "a" in b.sizes(b.schedule())


def test_without_a_step_in_flight_every_release_is_immediate(bench):
    b = bench(features=Features(outside_readers=True))
    b.add("a", 80)
    b.step()
    b.finish("a")
    assert b.blocks.num_free == b.blocks.usable
