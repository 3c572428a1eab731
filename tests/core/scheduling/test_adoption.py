"""Blocks used before they are proven, and rows that fail."""

from __future__ import annotations

import pytest

from inferplane.request import FinishReason

ASYNC = {"async_steps": 1}


@pytest.mark.behaviour("S24")
@pytest.mark.parametrize(("promise", "second"), [(True, 4), (False, 100)])
def test_equal_prompts_in_one_plan_share_only_under_the_backends_promise(bench, promise, second):
    b = bench(cache={"adopt_in_step": promise})
    for name in "ab":
        b.add(name, 100, 200, same=True)
    assert b.step() == {"a": 100, "b": second}
    assert b.step() == {"a": 1, "b": 1}


@pytest.mark.behaviour("S24")
def test_the_next_turn_finds_prompt_and_outputs(bench):
    b = bench()
    a = b.add("a", 100, 200, same=True)
    b.run()
    b.add("next", a.token_ids, 10)
    assert b.step() == {"next": 300 % 16}


def test_a_request_planned_in_a_later_step_shares_what_is_in_flight(bench):
    b = bench(limits=ASYNC)
    b.add("a", 100, same=True)
    first = b.schedule()
    b.add("b", 100, same=True)
    second = b.schedule()
    assert b.sizes(second) == {"a": 1, "b": 4}
    b.update(first)
    b.update(second)
    assert b.scheduler.counters.rollbacks == 0


def test_without_adoption_it_computes_everything(bench):
    b = bench(limits=ASYNC, settings={"adopt_pending": False})
    b.add("a", 100, same=True)
    b.schedule()
    b.add("b", 100, same=True)
    assert b.sizes(b.schedule())["b"] == 100


def test_a_failed_row_ends_its_request_and_nobody_elses(bench):
    b = bench()
    for name in "abc":
        b.add(name, 20, 5)
    b.step()
    plan = b.schedule()
    b.update(plan, failed=["b"])
    assert (b.ends["b"].finish, b.ends["b"].error) == (FinishReason.ERROR, "model_numerical_error")
    b.run()
    assert [len(b.outputs[name]) for name in "abc"] == [5, 1, 5]


def test_blocks_of_a_failed_row_are_never_found_and_zeroed_before_reuse(bench):
    b = bench(pool=8)
    b.add("bad", 40, same=True)
    plan = b.schedule()
    b.update(plan, failed=["bad"])
    assert b.blocks.num_free == 7
    b.add("next", 40, same=True)
    plan = b.schedule()
    assert b.sizes(plan) == {"next": 40}
    table = b.scheduler.sequences["next"].tables[0]
    assert sorted(plan.zeroed) == sorted(table)


def test_a_row_that_fails_later_keeps_what_was_proven_before(bench):
    b = bench(pool=8)
    b.add("bad", 40, same=True)
    b.step()
    plan = b.schedule()
    b.update(plan, failed=["bad"])
    b.add("next", 40, same=True)
    plan = b.schedule()
    assert b.sizes(plan) == {"next": 8}
    assert len(plan.zeroed) == 1


def test_whoever_adopted_blocks_of_a_failed_row_starts_again_unharmed(bench):
    b = bench(limits=ASYNC)
    b.add("bad", 100, 4, same=True)
    first = b.schedule()
    b.add("b", 100, 4, same=True)
    second = b.schedule()
    assert b.sizes(second)["b"] == 4
    b.update(first, failed=["bad"])
    assert b.ends["bad"].error == "model_numerical_error"
    assert b.waiting == ["b"]
    assert b.update(second, {"b": 99}) == []
    plan = b.schedule()
    assert b.sizes(plan) == {"b": 100}
    assert plan.zeroed
    b.update(plan)
    b.run()
    assert b.outputs["b"] == [7] * 4
    assert b.scheduler.counters.rollbacks == 1


def test_adopters_of_adopters_start_again_too(bench):
    b = bench(limits={"async_steps": 2})
    b.add("bad", 40, 4, same=True)
    plans = [b.schedule()]
    b.add("b", [*range(100, 140), *range(500, 560)], 4)
    plans.append(b.schedule())
    b.add("c", [*range(100, 140), *range(500, 560), 1], 4)
    plans.append(b.schedule())
    assert b.sizes(plans[2])["c"] == 5
    b.update(plans[0], failed=["bad"])
    assert b.waiting == ["b", "c"]
    for plan in plans[1:]:
        assert b.update(plan) == []
    b.run()
    assert (b.outputs["b"], b.outputs["c"]) == ([7] * 4, [7] * 4)


def test_an_adopter_that_fails_on_unproven_ground_is_computed_again_alone(bench):
    b = bench(budget=200, settings={"long_prefill_threshold": 50})
    b.add("other", 10, 50)
    b.add("a", 200, 4, same=True)
    b.step()
    b.add("b", [*range(100, 148), 1, 2], 4)
    plan = b.schedule()
    assert b.sizes(plan) == {"other": 1, "a": 50, "b": 2}
    b.update(plan, failed=["b"])
    assert "b" not in b.ends
    assert b.waiting == ["b"]
    plan = b.schedule()
    assert b.sizes(plan)["b"] == 50
    b.update(plan, failed=["b"])
    assert b.ends["b"].error == "model_numerical_error"


def test_an_aborted_producer_that_failed_still_takes_its_adopters_along(bench):
    b = bench(limits=ASYNC)
    b.add("bad", 100, 4, same=True)
    first = b.schedule()
    b.add("b", 100, 4, same=True)
    second = b.schedule()
    b.finish("bad")
    b.update(first, failed=["bad"])
    assert b.waiting == ["b"]
    b.update(second)
    b.run()
    assert b.outputs["b"] == [7] * 4


def test_a_failed_row_of_a_preempted_request_proves_nothing_and_is_drawn_again(bench):
    b = bench(pool=11, budget=100, caching=False)
    b.add("0", 80)
    first = b.schedule()
    b.add("1", 80)
    second = b.schedule()
    b.update(first)
    assert b.schedule().preempted == ["1"]
    b.update(second, failed=["1"])
    assert "1" not in b.ends
    assert b.waiting == ["1"]
