"""Who gives way, and what happens to what it had."""

from __future__ import annotations

import pytest

from inferplane.scheduling.plan import SkipReason
from inferplane.scheduling.preemption import choose_victim
from inferplane.scheduling.sequence import SequenceState


@pytest.mark.behaviour("S6")
def test_a_token_in_flight_reaches_the_request_preempted_meanwhile(bench):
    b = bench(pool=11, budget=100, caching=False)
    b.add("0", 80)
    first = b.schedule()
    b.add("1", 80)
    second = b.schedule()
    assert (b.sizes(first), b.sizes(second)) == ({"0": 80}, {"1": 80})
    b.update(first, {"0": 5})
    plan = b.schedule()
    assert plan.preempted == ["1"]
    assert b.sizes(plan) == {"0": 1}
    b.update(second, {"1": 42})
    assert b.outputs["1"] == [42]
    assert b.scheduler.sequences["1"].token_ids[80:] == [42]
    b.update(plan)
    b.run()
    assert len(b.outputs["1"]) == 16


@pytest.mark.behaviour("S14")
def test_the_lowest_priority_gives_way(bench):
    b = bench(pool=6, caching=False, settings={"policy": "priority"})
    b.add("low", 32, 40, priority=5)
    b.step()
    b.add("high", 32, 40, priority=0)
    plan = b.schedule()
    assert b.sizes(plan) == {"low": 1, "high": 32}
    b.update(plan)
    assert b.blocks.num_free == 0
    plan = b.schedule()
    assert plan.preempted == ["low"]
    assert b.sizes(plan) == {"high": 1}
    assert b.waiting == ["low"]


@pytest.mark.behaviour("S14")
def test_with_room_for_all_nobody_gives_way(bench):
    b = bench(pool=20, settings={"policy": "priority"})
    b.add("low", 32, 40, priority=5)
    b.step()
    b.add("high", 32, 40, priority=0)
    b.run()
    assert b.scheduler.counters.preemptions == 0


def test_a_victim_already_in_the_plan_gives_everything_back(bench):
    b = bench(pool=5, caching=False, settings={"policy": "priority"})
    b.add("low", 30, 30, priority=5)
    b.add("high", 31, 30, priority=0)
    b.step()
    assert b.running == ["high", "low"]
    b.scheduler._state.running.reverse()
    preempted = []
    while not preempted:
        plan = b.schedule()
        preempted = plan.preempted
        b.update(plan)
    assert preempted == ["low"]
    assert b.sizes(plan) == {"high": 1}
    low = b.scheduler.sequences["low"]
    assert (low.computed, low.placeholders, low.lane, low.tables) == (0, 0, -1, ([],))
    assert low.state is SequenceState.PREEMPTED
    b.run()
    assert len(b.outputs["low"]) == len(b.outputs["high"]) == 30


def test_preempted_requests_return_to_the_head_in_their_old_order(bench):
    b = bench(pool=10, caching=False)
    for name in "abc":
        b.add(name, 47, 90)
    b.step()
    b.add("d", 10, 2)
    while len(b.waiting) < 3:
        assert b.step()
    assert b.waiting == ["b", "c", "d"]
    assert b.running == ["a"]


def test_the_oldest_is_never_a_victim(bench):
    b = bench(pool=9, caching=False)
    b.add("a", 30, 60)
    b.add("b", 30, 60)
    b.step()
    b.scheduler._state.running.reverse()
    while b.scheduler.num_unfinished:
        assert b.step()
    assert b.scheduler.counters.preemptions > 0
    assert list(b.ends) == ["a", "b"]


def test_a_preempted_request_finds_its_own_blocks_again(bench):
    b = bench(pool=12)
    b.add("a", 80, 40)
    b.add("b", 64, 40)
    while "b" not in b.waiting or b.scheduler.sequences["b"].num_preemptions == 0:
        b.step()
    b.finish("a")
    plan = b.schedule()
    assert plan.resumed == ["b"]
    assert plan.scheduled[0].start == 64
    b.update(plan)
    b.run()
    assert len(b.outputs["b"]) == 40


def test_nobody_enters_in_a_step_that_preempted(bench):
    b = bench(pool=11, caching=False)
    b.add("a", 80, 40)
    b.add("b", 64, 40)
    plan = b.schedule()
    while not plan.preempted:
        b.update(plan)
        if "c" in b.scheduler.sequences:
            b.finish("c")
        b.outputs.pop("c", None)
        b.ends.pop("c", None)
        b.add("c", 5, 2)
        plan = b.schedule()
    assert plan.preempted == ["b"]
    assert plan.new == []
    assert plan.skipped["c"] is SkipReason.NO_BLOCKS


def test_without_recomputation_the_worst_case_is_reserved(bench):
    b = bench(pool=11, caching=False, limits={"preemption": "none"})
    b.add("a", 20, 61)
    b.add("b", 20, 61)
    b.add("c", 20, 61)
    assert b.step() == {"a": 20, "b": 20}
    assert b.schedule().skipped["c"] is SkipReason.NO_BLOCKS
    b = bench(pool=11, caching=False, limits={"preemption": "none"})
    for name in "abcd":
        b.add(name, 20, 61)
    b.run()
    assert b.scheduler.counters.preemptions == 0
    assert b.blocks.num_free == 10


def test_a_request_that_could_not_be_recomputed_in_one_step_is_never_a_victim(bench):
    b = bench(pool=20, budget=64, caching=False, limits={"chunked_prefill": False})
    for name in "abcd":
        b.add(name, 50, 60)
    assert all(s.unresumable for s in b.scheduler.waiting)
    b.run()
    assert b.scheduler.counters.preemptions == 0


def test_the_watermark_keeps_blocks_back_only_while_something_runs(bench):
    b = bench(pool=11, caching=False, settings={"watermark": 0.5})
    b.add("a", 100, 2)
    assert b.step() == {"a": 100}
    b.add("b", 16, 2)
    assert b.schedule().skipped["b"] is SkipReason.NO_BLOCKS


def test_admission_wants_room_for_the_whole_prompt(bench):
    for reserve, expected in ((True, {"a": 1}), (False, {"a": 1, "b": 31})):
        b = bench(pool=11, budget=32, caching=False, settings={"reserve_whole_prompt": reserve})
        b.add("a", 64, 40)
        b.step()
        b.step()
        b.add("b", 120, 2)
        assert b.step() == expected


def test_on_a_device_that_cannot_recompute_nobody_is_a_victim(bench):
    b = bench(limits={"preemption": "none"})
    b.add("a", 10)
    b.add("b", 10)
    b.step()
    assert choose_victim(b.scheduler._state) is None
