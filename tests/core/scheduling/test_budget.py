"""Shapes that exist, asked before a step grows."""

from __future__ import annotations

import pytest

from inferplane.errors import RequestError
from inferplane.interfaces import ShapePolicy
from inferplane.scheduling.plan import SkipReason


class Most(ShapePolicy):
    """Says no above some size; remembers what it was asked."""

    def __init__(self, **most):
        self.most = most
        self.asked = []

    def admits(self, shape):
        self.asked.append(shape)
        return all(getattr(shape, name) <= size for name, size in self.most.items())


def test_a_chunk_is_halved_until_its_shape_exists(bench):
    b = bench(shapes=Most(max_query=40))
    b.add("a", 100)
    assert [b.step()["a"] for _ in range(3)] == [25, 37, 38]


def test_no_shape_for_one_more_sequence_leaves_it_waiting(bench):
    b = bench(shapes=Most(num_seqs=2))
    for name in "abc":
        b.add(name, 10)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 10, "b": 10}
    assert plan.skipped == {"c": SkipReason.SHAPE}


def test_decodes_whose_shape_does_not_exist_sit_out_last_first(bench):
    shapes = Most(num_seqs=3)
    b = bench(shapes=shapes)
    for name in "abc":
        b.add(name, 10, 50)
    b.step()
    shapes.most = {"num_seqs": 2}
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 1, "b": 1}
    assert plan.skipped == {"c": SkipReason.SHAPE}
    b.update(plan)
    shapes.most = {}
    assert b.step() == {"a": 1, "b": 1, "c": 1}


def test_the_shape_asked_for_is_the_one_that_runs(bench):
    shapes = Most()
    b = bench(shapes=shapes, block=16)
    b.add("a", 20, 50)
    b.add("b", 33, 50)
    b.step()
    b.add("c", 40, 50)
    shapes.asked.clear()
    plan = b.schedule()
    shape = shapes.asked[-1]
    assert (shape.num_tokens, shape.num_seqs, shape.num_decodes) == (42, 3, 2)
    assert (shape.max_query, shape.max_context, shape.context_blocks) == (40, 40, 2 + 3 + 3)
    assert plan.num_tokens == 42


def test_a_policy_without_limits_is_never_asked(bench):
    b = bench()
    assert b.scheduler._state.shapes is None


def test_a_prompt_no_shape_holds_is_refused(bench):
    b = bench(shapes=Most(max_query=64), limits={"chunked_prefill": False})
    with pytest.raises(RequestError) as refused:
        b.add("a", 100)
    assert refused.value.code == "capacity_exceeded"
    b.add("b", 60, 2)
    b.run()


def test_one_region_per_request_is_just_a_large_block(bench):
    b = bench(
        pool=3,
        block=256,
        max_len=256,
        caching=False,
        limits={
            "chunked_prefill": False,
            "mix_prefill_decode": False,
            "max_prefill_seqs": 1,
            "prefix_cache": False,
        },
    )
    for name in "abc":
        b.add(name, 100, 20)
    b.step()
    b.step()
    assert b.running == ["a", "b"]
    b.run()
    assert b.scheduler.counters.preemptions == 0
    assert all(len(b.outputs[name]) == 20 for name in "abc")


def test_drafts_are_given_up_for_a_shape_that_exists(bench):
    b = bench(shapes=Most(max_query=10), settings={"num_drafts": 3})
    b.add("a", 10, 20)
    b.step()
    b.scheduler._state.shapes.most = {"max_query": 2}
    b.scheduler.offer_drafts("a", [1, 2, 3])
    assert b.step() == {"a": 1}


def test_nothing_is_padded_into_a_shape_that_does_not_exist(bench):
    b = bench(shapes=Most(max_query=10), settings={"num_drafts": 3})
    b.add("a", 10, 20)
    b.step()
    b.scheduler._state.shapes.most = {"max_query": 3}
    plan = b.schedule()
    assert (b.sizes(plan), b.drafts(plan)) == ({"a": 1}, {"a": []})


def test_only_plain_decodes_sit_out_for_a_shape(bench):
    class Fickle(ShapePolicy):
        answers = [True] * 6

        def admits(self, shape):
            return self.answers.pop(0) if self.answers else False

    b = bench(shapes=Fickle(), settings={"num_drafts": 3})
    b.add("a", 10, 20)
    b.step()
    b.scheduler.offer_drafts("a", [1, 2, 3])
    Fickle.answers = [True]
    assert b.step() == {"a": 4}


def test_no_token_is_left_for_those_behind(bench):
    b = bench(budget=10, settings={"num_drafts": 9})
    b.add("a", 5, 20)
    b.add("b", 5, 20)
    b.step()
    b.scheduler.offer_drafts("a", range(8))
    b.scheduler.offer_drafts("b", range(8))
    assert b.step() == {"a": 9, "b": 1}
    b.scheduler.offer_drafts("a", range(8))
    b.finish("b")
    b.add("c", 5)
    plan = b.schedule()
    assert plan.skipped.get("c") in (None, SkipReason.BUDGET)
