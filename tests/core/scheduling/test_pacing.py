"""Prefill held back so that decodes are not, and devices that run one kind at a time."""

from __future__ import annotations

import pytest

from inferplane.scheduling.plan import SkipReason


@pytest.mark.behaviour("S18")
def test_prefill_waits_for_executed_steps_not_for_empty_plans(bench):
    b = bench(settings={"prefill_interval": 4})
    b.add("a", 10, 50)
    assert b.step() == {"a": 10}
    b.add("b", 10)
    for step in range(3):
        plan = b.schedule()
        assert b.sizes(plan) == {"a": 1}
        assert plan.skipped == {"b": SkipReason.HELD}
        if step < 2:
            assert not b.schedule()
            assert not b.schedule()
        b.update(plan)
    assert b.step() == {"a": 1, "b": 10}


@pytest.mark.behaviour("S18")
def test_with_nothing_decoding_prefill_is_admitted_at_once(bench):
    b = bench(settings={"prefill_interval": 4})
    b.add("a", 10, 1)
    b.step()
    b.add("b", 10)
    assert b.step() == {"b": 10}


def test_further_chunks_are_prefill_work_too(bench):
    b = bench(budget=20, settings={"prefill_interval": 2})
    b.add("a", 5, 50)
    b.step()
    b.step()
    b.add("b", 30)
    assert b.step() == {"a": 1, "b": 19}
    assert b.step() == {"a": 1}
    assert b.step() == {"a": 1, "b": 11}


def test_a_device_that_does_not_mix_runs_prefill_first(bench):
    b = bench(limits={"mix_prefill_decode": False})
    b.add("a", 10, 50)
    b.step()
    b.add("b", 10)
    plan = b.schedule()
    assert b.sizes(plan) == {"b": 10}
    assert plan.skipped == {"a": SkipReason.HELD}
    b.update(plan)
    assert b.step() == {"a": 1, "b": 1}


def test_without_mixing_the_interval_gives_decodes_their_turn(bench):
    b = bench(
        limits={"mix_prefill_decode": False, "max_prefill_seqs": 1},
        settings={"prefill_interval": 3},
    )
    for name in "abc":
        b.add(name, 10, 50)
    kinds = [sorted(b.step().items()) for _ in range(7)]
    assert kinds == [
        [("a", 10)],
        [("a", 1)],
        [("a", 1)],
        [("b", 10)],
        [("a", 1), ("b", 1)],
        [("a", 1), ("b", 1)],
        [("c", 10)],
    ]


def test_a_cached_prompt_is_still_prefill_for_a_device_that_does_not_mix(bench):
    b = bench(limits={"mix_prefill_decode": False})
    b.add("a", 33, 50, same=True)
    b.step()
    b.add("b", 33, same=True)
    plan = b.schedule()
    assert b.sizes(plan) == {"b": 1}
    assert [e.is_decode for e in plan.scheduled] == [False]


def test_prefilling_sequences_are_capped(bench):
    b = bench(limits={"max_prefill_seqs": 2})
    for name in "abc":
        b.add(name, 10)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 10, "b": 10}
    assert plan.skipped == {"c": SkipReason.BATCH_FULL}


def test_all_chunks_but_the_last_are_multiples(bench):
    b = bench(budget=50, limits={"chunk_multiple": 16})
    b.add("a", 5, 50)
    b.step()
    b.add("b", 100)
    assert [b.step()["b"] for _ in range(3)] == [48, 48, 4]
