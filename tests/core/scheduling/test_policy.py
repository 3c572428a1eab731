"""Order of waiting, and who waits apart."""

from __future__ import annotations

import pytest

from inferplane.scheduling.plan import SkipReason
from inferplane.scheduling.sequence import SequenceState

PRIORITY = {"policy": "priority"}


@pytest.mark.behaviour("S13")
def test_smaller_priority_numbers_start_first(bench):
    b = bench(settings=PRIORITY)
    for name, priority in zip("012", (2, 0, 1), strict=True):
        b.add(name, 10, priority=priority)
    b.step()
    assert b.running == ["1", "2", "0"]


@pytest.mark.behaviour("S13")
def test_equal_priorities_start_in_order_of_arrival(bench):
    b = bench(settings=PRIORITY)
    for name, arrival in zip("012", (3.0, 1.0, 2.0), strict=True):
        b.now = arrival
        b.add(name, 10)
    b.step()
    assert b.running == ["1", "2", "0"]


@pytest.mark.behaviour("S13")
def test_the_waiting_queue_is_walked_in_priority_order(bench):
    b = bench(settings=PRIORITY, max_seqs=1)
    for name, priority in zip("0123", (3, 1, 2, 0), strict=True):
        b.add(name, 10, priority=priority)
    b.step()
    assert b.running == ["3"]
    assert b.waiting == ["1", "2", "0"]


def test_first_come_first_served_ignores_priority(bench):
    b = bench()
    for name, priority in zip("012", (2, 0, 1), strict=True):
        b.add(name, 10, priority=priority)
    b.step()
    assert b.running == ["0", "1", "2"]


@pytest.mark.behaviour("S19")
def test_ready_requests_pass_those_set_aside_which_keep_their_order(bench):
    b = bench()
    states = (
        SequenceState.WAITING_GRAMMAR,
        SequenceState.WAITING_REMOTE,
        SequenceState.WAITING_INPUT,
    )
    for name, state in zip("abc", states, strict=True):
        b.add(name, 10)
        b.scheduler.hold(name, state)
    b.add("d", 10)
    plan = b.schedule()
    assert b.sizes(plan) == {"d": 10}
    assert plan.skipped == {
        "a": SkipReason.GRAMMAR,
        "b": SkipReason.REMOTE_KV,
        "c": SkipReason.HELD,
    }
    b.update(plan)
    assert b.waiting == ["a", "b", "c"]
    for name in "ca":
        b.scheduler.ready(name)
    plan = b.schedule()
    assert plan.new == ["a", "c"]


@pytest.mark.behaviour("S19")
def test_remote_kv_that_arrived_goes_before_all_others(bench):
    b = bench(max_seqs=1)
    for name in "abc":
        b.add(name, 10, 1)
    b.scheduler.hold("c", SequenceState.WAITING_REMOTE)
    b.scheduler.ready("c")
    assert b.waiting == ["c", "a", "b"]
    assert b.step() == {"c": 10}


def test_only_a_waiting_request_can_be_set_aside(bench):
    b = bench()
    b.add("a", 10)
    b.step()
    with pytest.raises(ValueError, match="cannot hold a"):
        b.scheduler.hold("a", SequenceState.WAITING_GRAMMAR)
    b.add("b", 10)
    with pytest.raises(ValueError, match="cannot hold b"):
        b.scheduler.hold("b", SequenceState.RUNNING)
    b.scheduler.ready("nobody")


def test_the_first_that_does_not_fit_ends_the_walk(bench):
    b = bench(pool=8, caching=False)
    b.add("a", 60, 20)
    b.step()
    b.add("big", 60, 20)
    b.add("small", 10, 4)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 1}
    assert plan.skipped == {"big": SkipReason.NO_BLOCKS, "small": SkipReason.NO_BLOCKS}


def test_bounded_overtaking_lets_small_requests_pass_a_few_times(bench):
    b = bench(pool=8, caching=False, settings={"max_overtakes": 2})
    b.add("a", 60, 30)
    b.step()
    b.add("big", 60, 20)
    for i in range(4):
        b.add(f"small-{i}", 10, 2)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 1, "small-0": 10, "small-1": 10}
    assert plan.skipped["big"] is SkipReason.OVERTAKEN
    b.update(plan)
    while b.scheduler.num_unfinished > 3:
        b.step()
    assert b.waiting[0] == "big"
    assert {"small-0", "small-1"} <= set(b.ends)
    assert not {"small-2", "small-3"} & set(b.ends)
    b.run()
    assert len(b.ends) == 6
