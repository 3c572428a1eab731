"""Drafts: offered, verified, taken back, padded."""

from __future__ import annotations

import pytest

from inferplane.request import FinishReason
from inferplane.scheduling.state import Features

K3 = {"num_drafts": 3}


@pytest.mark.behaviour("S10")
def test_drafts_wait_until_the_prompt_is_done(bench):
    b = bench(budget=50, settings=K3)
    b.add("a", 80)
    assert b.step() == {"a": 50}
    b.scheduler.offer_drafts("a", [1, 2, 3])
    plan = b.schedule()
    assert (b.sizes(plan), b.drafts(plan)) == ({"a": 30}, {"a": []})
    b.update(plan, {"a": 5}, next_drafts={"a": [11, 12, 13]})
    plan = b.schedule()
    assert (b.sizes(plan), b.drafts(plan)) == ({"a": 4}, {"a": [11, 12, 13]})


def decoding(bench, **options):
    """A speculative decode under way; "b" shares 32 of its 33 tokens with what is cached."""
    b = bench(settings=K3, **options)
    b.add("seed", 33, 1, same=True)
    b.run()
    b.add("a", 10, 100)
    b.step()
    plan = b.schedule()
    b.update(plan, {"a": [20]}, next_drafts={"a": [21, 22, 23]})
    b.add("b", 33, 100, same=True)
    return b


@pytest.mark.behaviour("S11")
def test_a_first_decode_is_padded_to_the_width_of_the_others(bench):
    b = decoding(bench)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 4, "b": 4}
    assert b.drafts(plan) == {"a": [21, 22, 23], "b": [-1, -1, -1]}
    assert all(e.is_decode and e.samples for e in plan.scheduled)
    b.update(plan, {"a": [21, 22, 9], "b": [30]})
    assert b.scheduler.sequences["b"].computed == 33
    assert b.scheduler.sequences["a"].computed == 14
    assert b.drafts(b.schedule())["b"] == []


@pytest.mark.behaviour("S11")
def test_no_padding_for_diffusion_models(bench):
    b = decoding(bench, features=Features(pad_first_decode=False))
    assert b.sizes(b.schedule()) == {"a": 4, "b": 1}


@pytest.mark.behaviour("S11")
def test_no_padding_beside_a_prefill(bench):
    b = decoding(bench)
    b.add("c", 20)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 4, "b": 1, "c": 20}
    assert b.drafts(plan)["b"] == []


@pytest.mark.behaviour("S11")
@pytest.mark.parametrize("left", [1, 2, 3])
def test_padding_a_budget_would_clip_is_left_out(bench, left):
    b = decoding(bench, budget=4 + left, limits={"chunked_prefill": True})
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 4, "b": 1}
    assert b.drafts(plan)["b"] == []


@pytest.mark.behaviour("S12")
def test_at_the_end_of_the_context_nothing_is_padded(bench):
    b = bench(block=2, max_len=32, settings={"num_drafts": 1}, limits={"async_steps": 1})
    b.add("seed", 31, 1, same=True)
    b.run()
    b.add("a", 10, 20)
    b.step()
    b.add("b", 31, None, same=True)
    plan = b.schedule()
    assert b.sizes(plan)["b"] == 1
    assert plan.scheduled[-1].start == 30
    b.update(plan)
    assert b.ends["b"].finish is FinishReason.LENGTH
    assert len(b.outputs["b"]) == 1


def test_rejected_drafts_leave_the_tables_as_if_never_drafted(bench):
    b = bench(block=4, settings=K3)
    b.add("a", 7, 100)
    b.step()
    b.scheduler.offer_drafts("a", [1, 2, 3])
    plan = b.schedule()
    a = b.scheduler.sequences["a"]
    assert (a.computed, len(a.tables[0])) == (11, 3)
    table = list(a.tables[0])
    b.update(plan, {"a": [9]})
    assert a.computed == 8
    assert a.tables[0] == table
    assert a.token_ids[-2:] == [7, 9]
    assert len(b.blocks.cache.index) == 2
    assert b.schedule().scheduled[0].start == 8


def test_accepted_drafts_are_emitted_and_counted(bench):
    b = bench(settings=K3)
    b.add("a", 10, 100)
    b.step({"a": 5})
    b.scheduler.offer_drafts("a", [11, 12, 13])
    b.step({"a": [11, 12, 50]})
    b.scheduler.offer_drafts("a", [14])
    b.step({"a": [14, 51]})
    assert b.outputs["a"] == [5, 11, 12, 50, 14, 51]
    counters = b.scheduler.counters
    assert (counters.drafts, counters.draft_tokens, counters.accepted_tokens) == (2, 4, 3)
    assert counters.accepted_per_position == [2, 1, 0]


def test_drafts_never_pass_the_length_limit(bench):
    b = bench(settings=K3)
    b.add("a", 10, 4)
    b.step()
    b.scheduler.offer_drafts("a", [11, 12, 13])
    plan = b.schedule()
    assert b.drafts(plan)["a"] == [11, 12]
    b.update(plan, {"a": [11, 12, 13]})
    assert b.outputs["a"] == [7, 11, 12, 13]
    assert b.ends["a"].finish is FinishReason.LENGTH


def test_drafts_are_given_up_before_anybody_is_preempted(bench):
    features = Features(pad_first_decode=False)
    b = bench(block=4, pool=7, caching=False, settings=K3, features=features)
    b.add("a", 7, 8)
    b.add("b", 15, 4)
    b.step()
    b.scheduler.offer_drafts("a", [1, 2, 3])
    plan = b.schedule()
    assert plan.preempted == []
    assert b.sizes(plan) == {"a": 1, "b": 1}


def test_repeated_text_is_drafted_on_the_host(bench):
    b = bench(settings=K3)
    b.add("a", [1, 2, 3, 4, 5, 6, 1, 2, 3], 20, eos=())
    b.step({"a": 4})
    assert b.drafts(b.schedule())["a"][:2] == [5, 6]


def test_with_steps_overlapping_a_drafting_row_sits_out_one_step(bench):
    b = bench(settings=K3, limits={"async_steps": 1})
    b.add("a", 10, 20)
    first = b.schedule()
    assert not b.schedule()
    b.update(first)
    assert b.schedule()


def test_the_device_may_allow_fewer_drafts_than_asked(bench):
    b = bench(settings={"num_drafts": 5}, limits={"max_drafts": 2})
    b.add("a", 10, 20)
    b.step()
    b.scheduler.offer_drafts("a", [1, 2, 3, 4])
    assert b.drafts(b.schedule())["a"] == [1, 2]
