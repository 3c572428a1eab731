"""What runs next, and how requests end."""

from __future__ import annotations

import numpy as np
import pytest

from inferplane.errors import ConfigError, RequestError
from inferplane.interfaces import StepResult
from inferplane.request import FinishReason
from inferplane.scheduling.plan import SkipReason
from inferplane.scheduling.sequence import SequenceState

EOS = 2


@pytest.mark.behaviour("S1")
def test_everything_that_fits_is_planned_at_once_in_arrival_order(bench):
    b = bench()
    names = [str(i) for i in range(10)]
    for name in names:
        b.add(name, 20)
    plan = b.schedule()
    assert b.sizes(plan) == dict.fromkeys(names, 20)
    assert b.running == names
    assert plan.new == names
    assert (b.waiting, plan.released, plan.preempted) == ([], [], [])


@pytest.mark.behaviour("S2")
def test_finish_takes_a_request_out_of_its_queue_once(bench):
    b = bench(max_seqs=2)
    for i in range(4):
        b.add(str(i), 20)
    b.step()
    left = b.scheduler.num_unfinished
    for name in ("3", "0", "2", "1"):
        (event,) = b.finish(name)
        left -= 1
        assert event.finish is FinishReason.ABORT
        assert b.scheduler.num_unfinished == left
        assert name not in b.running + b.waiting
        assert b.finish(name) == []
    assert b.blocks.num_free == b.blocks.usable


@pytest.mark.behaviour("S3")
def test_the_cap_on_active_requests_leaves_the_batch_size_alone(bench):
    b = bench(max_seqs=16, settings={"max_active_seqs": 3})
    for i in range(10):
        b.add(str(i), 20)
    plan = b.schedule()
    assert b.running == ["0", "1", "2"]
    assert len(b.waiting) == 7
    assert set(plan.skipped.values()) == {SkipReason.BATCH_FULL}
    assert b.scheduler._state.limits.max_seqs == 16


@pytest.mark.behaviour("S4")
def test_long_prompts_are_cut_to_the_threshold_in_company(bench):
    b = bench(budget=1024, settings={"long_prefill_threshold": 400})
    for name in "abc":
        b.add(name, 800)
    assert b.step() == {"a": 400, "b": 400, "c": 224}
    assert b.step() == {"a": 400, "b": 400, "c": 224}
    assert b.step() == {"a": 1, "b": 1, "c": 352}


@pytest.mark.behaviour("S4")
def test_a_lone_request_ignores_the_threshold(bench):
    b = bench(budget=1024, settings={"long_prefill_threshold": 400})
    b.add("a", 800)
    assert b.step() == {"a": 800}


def test_an_adaptive_threshold_is_never_below_an_equal_share(bench):
    b = bench(budget=1200, settings={"long_prefill_threshold": 100, "adaptive_prefill": True})
    for name in "ab":
        b.add(name, 800)
    assert b.step() == {"a": 600, "b": 600}


@pytest.mark.behaviour("S5")
def test_without_chunking_a_prompt_that_does_not_fit_ends_the_walk(bench):
    for chunked, expected in ((False, {"a": 800}), (True, {"a": 800, "b": 224})):
        b = bench(budget=1024, max_seqs=3, settings={"chunked_prefill": chunked})
        for name, size in (("a", 800), ("b", 800), ("c", 10), ("d", 10)):
            b.add(name, size)
        assert b.step() == expected


@pytest.mark.behaviour("S7")
@pytest.mark.parametrize(
    ("drawn", "sampling", "kept", "finish", "stop_reason"),
    [
        ([EOS], {}, [EOS], FinishReason.STOP, None),
        ([10, 42, 12], {"stop_token_ids": (42,)}, [10, 42], FinishReason.STOP, 42),
        ([10, 11, 12], {"max_tokens": 2}, [10, 11], FinishReason.LENGTH, None),
        ([EOS, 10, 11], {"ignore_eos": True}, [EOS, 10, 11], None, None),
        ([10, EOS], {"stop_token_ids": (EOS,)}, [10, EOS], FinishReason.STOP, None),
        ([10, 11], {"max_tokens": 2, "stop_token_ids": (11,)}, [10, 11], FinishReason.STOP, 11),
    ],
)
def test_a_request_ends_at_its_end_token_stop_id_or_length(
    bench, drawn, sampling, kept, finish, stop_reason
):
    b = bench()
    b.add("a", 10, **{"max_tokens": 16, **sampling})
    for token in drawn:
        b.step({"a": token})
        if "a" in b.ends:
            break
    assert b.outputs["a"] == kept
    if finish is None:
        assert b.running == ["a"]
    else:
        assert (b.ends["a"].finish, b.ends["a"].stop_reason) == (finish, stop_reason)
        assert b.blocks.num_free == b.blocks.usable


@pytest.mark.behaviour("S7")
def test_tokens_after_the_stopping_one_are_dropped(bench):
    b = bench(settings={"num_drafts": 3})
    b.add("a", 10, max_tokens=10, stop_token_ids=(42,))
    b.step({"a": 5})
    b.scheduler.offer_drafts("a", [10, 42, 12])
    b.step({"a": [10, 42, 12, 13]})
    assert b.outputs["a"] == [5, 10, 42]
    assert b.ends["a"].stop_reason == 42


@pytest.mark.behaviour("S8")
@pytest.mark.parametrize("token", [EOS, 42])
def test_a_stop_sampled_below_min_tokens_stops_all_the_same(bench, token):
    b = bench()
    b.add("a", 10, max_tokens=20, min_tokens=5, stop_token_ids=(42,))
    for drawn in (10, 11, token):
        b.step({"a": drawn})
    assert b.ends["a"].finish is FinishReason.STOP


@pytest.mark.behaviour("S8")
@pytest.mark.parametrize(("max_len", "max_tokens", "length"), [(20, None, 10), (4096, 6, 6)])
def test_nobody_hangs_below_min_tokens(bench, max_len, max_tokens, length):
    b = bench(max_len=max_len)
    b.add("a", 10, max_tokens, min_tokens=500)
    b.run()
    assert b.ends["a"].finish is FinishReason.LENGTH
    assert len(b.outputs["a"]) == length


@pytest.mark.behaviour("S9")
def test_a_pooling_request_keeps_no_position_back(bench):
    b = bench(budget=8, max_len=8)
    b.add("a", 8, None, pooling=True)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 8}
    assert not any(e.samples for e in plan.scheduled)
    (event,) = b.update(plan)
    assert (event.finish, event.token_ids, event.row) == (FinishReason.STOP, [], 0)
    assert b.blocks.num_free == b.blocks.usable


@pytest.mark.behaviour("S9")
def test_pooling_in_chunks_needs_an_executor_that_can(bench):
    from inferplane.scheduling.state import Features

    b = bench(budget=4, max_len=8, features=Features(chunked_pooling=True))
    b.add("a", 8, None, pooling=True)
    assert [b.step(), b.step()] == [{"a": 4}, {"a": 4}]
    assert b.ends["a"].finish is FinishReason.STOP
    with pytest.raises(RequestError, match="in one step"):
        bench(budget=4, max_len=8).add("a", 8, None, pooling=True)


@pytest.mark.behaviour("S15")
def test_reset_with_requests_running_needs_leave_to_restart_them(bench):
    b = bench()
    names = [str(i) for i in range(10)]
    for name in names:
        b.add(name, 40, same=True)
    plan = b.schedule()
    assert not b.scheduler.reset_prefix_cache()
    assert b.running == names
    assert b.scheduler.reset_prefix_cache(reset_running=True)
    assert (b.running, b.waiting) == ([], names)
    assert len(b.blocks.cache.index) == 0
    assert b.update(plan) == []
    b.run()
    assert all(len(b.outputs[name]) == 16 for name in names)


@pytest.mark.behaviour("S16")
def test_after_the_last_request_everything_is_free(bench):
    b = bench(pool=100)
    for i in range(5):
        b.add(str(i), 10, 10)
    b.run()
    assert b.scheduler.sequences == {}
    assert (b.running, b.waiting) == ([], [])
    assert b.blocks.num_free == 99
    assert not any(b.blocks.pool.refs)


@pytest.mark.behaviour("S21")
@pytest.mark.parametrize(
    "state", ["waiting", "grammar", "remote", "running", "flight", "preempted"]
)
def test_an_abort_in_any_state_is_one_event_and_no_block(bench, state):
    b = bench(pool=11 if state == "preempted" else 100, caching=False)
    if state == "preempted":
        b.add("old", 80, 40)
        b.step()
    b.add("a", 80, 40)
    if state == "grammar":
        b.scheduler.hold("a", SequenceState.WAITING_GRAMMAR)
        b.step()
    elif state == "remote":
        b.scheduler.hold("a", SequenceState.WAITING_REMOTE)
        b.step()
    elif state == "running":
        b.step()
    elif state == "flight":
        plan = b.schedule()
    elif state == "preempted":
        b.step()
        while "a" in b.running:
            b.step()
    (event,) = b.finish("a")
    assert event.finish is FinishReason.ABORT
    assert "a" not in b.scheduler.sequences
    if state == "flight":
        assert b.update(plan) == []
    if state == "preempted":
        b.finish("old")
    assert b.blocks.num_free == b.blocks.usable
    assert b.finish("a") == []


def test_output_of_a_request_aborted_in_flight_is_dropped(bench):
    b = bench()
    b.add("a", 10)
    b.add("b", 10)
    plan = b.schedule()
    b.finish("a")
    (event,) = b.update(plan, {"a": 5, "b": 6})
    assert (event.sequence.request_id, event.token_ids, event.row) == ("b", [6], 1)
    assert b.outputs["a"] == []


def test_lanes_are_stable_reused_and_released_once(bench):
    b = bench(max_seqs=2)
    for name in "abc":
        b.add(name, 10, 4)
    b.step()
    lanes = {s.request_id: s.lane for s in b.scheduler.running}
    assert sorted(lanes.values()) == [0, 1]
    b.finish("a")
    plan = b.schedule()
    assert plan.released == [lanes["a"]]
    assert b.scheduler.sequences["c"].lane == lanes["a"]
    assert b.scheduler.sequences["b"].lane == lanes["b"]
    b.update(plan)
    assert b.schedule().released == []


def test_what_ended_is_told_in_the_first_plan_that_runs(bench):
    b = bench()
    b.add("a", 10)
    b.step()
    lane = b.scheduler.running[0].lane
    b.finish("a")
    assert not b.schedule()
    b.add("b", 10)
    assert b.schedule().released == [lane]


def test_decodes_stand_before_prefills(bench):
    b = bench(budget=100)
    b.add("a", 150)
    b.step()
    b.step()
    b.add("b", 150)
    plan = b.schedule()
    assert [(e.sequence.request_id, e.is_decode) for e in plan.scheduled] == [
        ("a", True),
        ("b", False),
    ]
    b.update(plan)
    b.add("c", 20)
    plan = b.schedule()
    assert [e.is_decode for e in plan.scheduled] == [True, False, False]
    assert plan.num_tokens == 1 + 51 + 20


def test_each_request_left_out_has_one_reason(bench):
    b = bench(budget=20, max_seqs=4)
    b.add("a", 40)
    b.step()
    b.add("b", 10)
    b.add("c", 10)
    b.scheduler.hold("b", SequenceState.WAITING_GRAMMAR)
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 20}
    assert plan.skipped == {"b": SkipReason.GRAMMAR, "c": SkipReason.BUDGET}
    again = b.schedule()
    assert again.skipped["a"] is SkipReason.IN_FLIGHT
    assert b.scheduler.counters.skipped[SkipReason.GRAMMAR] == 2


@pytest.mark.case("never-fits")
def test_requests_that_can_never_run_are_refused_at_once(bench):
    b = bench(pool=5, max_len=1000)
    with pytest.raises(RequestError) as too_long:
        b.add("a", 1000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(RequestError) as too_big:
        b.add("b", 60, 100)
    assert too_big.value.code == "capacity_exceeded"
    assert "the device has 4" in str(too_big.value)
    with pytest.raises(RequestError, match="at least one token"):
        b.add("c", [])
    b.add("d", 60, 5)
    with pytest.raises(RequestError, match="in use"):
        b.add("d", 10)
    assert b.scheduler.num_unfinished == 1


def test_the_last_token_of_a_request_needs_no_block(bench):
    b = bench(pool=5)
    b.add("a", 60, 5)
    b.run()
    assert len(b.outputs["a"]) == 5
    with pytest.raises(RequestError):
        b.add("b", 60, 6)


def test_a_full_queue_refuses_and_recovers(bench):
    b = bench(max_seqs=1, settings={"max_waiting": 2})
    for name in "abc":
        b.add(name, 10, 2)
        if name == "a":
            b.step()
    with pytest.raises(RequestError) as full:
        b.add("d", 10)
    assert full.value.code == "queue_full"
    b.run()
    b.add("e", 10)


def test_the_queue_is_bounded_in_tokens_too(bench):
    b = bench(max_seqs=1, settings={"max_waiting_tokens": 100})
    b.add("a", 300)
    with pytest.raises(RequestError) as full:
        b.add("b", 10)
    assert full.value.code == "queue_full"
    b.step()
    b.add("c", 90)
    with pytest.raises(RequestError):
        b.add("d", 20)
    b.finish("c")
    b.add("e", 20)


def test_waiting_too_long_ends_with_queue_timeout(bench):
    b = bench(max_seqs=1, settings={"queue_timeout_s": 5.0})
    b.add("a", 10, 50)
    b.step()
    b.now = 1.0
    b.add("b", 10)
    b.now = 5.9
    assert not b.schedule().ended
    b.now = 6.0
    plan = b.schedule()
    assert [(e.sequence.request_id, e.error) for e in plan.ended] == [("b", "queue_timeout")]
    assert b.running == ["a"]


@pytest.mark.parametrize("running", [True, False])
def test_a_deadline_ends_a_request_wherever_it_is(bench, running):
    b = bench(max_seqs=1)
    if not running:
        b.add("other", 10)
        b.step()
    b.now = 10.0
    b.add("a", 10, deadline_s=2.5)
    b.step()
    b.now = 12.5
    b.schedule()
    assert (b.ends["a"].finish, b.ends["a"].error) == (FinishReason.ERROR, "deadline_exceeded")
    assert "a" not in b.scheduler.sequences


def test_a_finished_request_does_not_stop_the_clock_for_others(bench):
    b = bench()
    b.add("a", 10, deadline_s=1.0)
    b.add("b", 10, deadline_s=2.0)
    b.finish("a")
    for now in (1.5, 2.5):
        b.now = now
        b.schedule()
    assert b.ends["b"].error == "deadline_exceeded"


def test_pausing_keeps_drains_or_aborts(bench):
    b = bench(max_seqs=1)
    b.add("a", 10, 4)
    b.step()
    b.add("b", 10, 4)
    b.scheduler.pause("keep")
    plan = b.schedule()
    assert not plan
    assert plan.skipped == {"a": SkipReason.PAUSED, "b": SkipReason.PAUSED}
    b.scheduler.pause("drain")
    while b.step():
        pass
    assert (b.running, b.waiting) == ([], ["b"])
    assert b.schedule().skipped == {"b": SkipReason.PAUSED}
    b.scheduler.resume()
    assert b.step() == {"b": 10}
    assert [e.finish for e in b.scheduler.pause("abort")] == [FinishReason.ABORT]
    assert b.scheduler.num_unfinished == 0


def test_a_replaced_worker_computes_everything_again(bench):
    b = bench(max_seqs=4)
    for name in "abc":
        b.add(name, 40, 6, same=True)
    b.step()
    b.step()
    plan = b.schedule()
    b.scheduler.worker_replaced()
    assert b.update(plan) == []
    assert (b.running, b.waiting) == ([], ["a", "b", "c"])
    assert len(b.blocks.cache.index) == 0
    plan = b.schedule()
    assert b.sizes(plan) == {"a": 42, "b": 42, "c": 42}
    assert plan.resumed == ["a", "b", "c"]
    b.update(plan)
    b.run()
    assert all(len(b.outputs[name]) == 6 for name in "abc")


def test_a_result_out_of_order_is_refused_and_one_answered_twice_ignored(bench):
    b = bench()
    b.add("a", 10)
    first = b.schedule()
    b.add("b", 10)
    second = b.schedule()
    with pytest.raises(ValueError, match="before that of step"):
        b.update(second)
    b.update(first)
    assert b.update(first) == []
    b.update(second)
    assert b.outputs == {"a": [7], "b": [7]}


def test_settings_under_which_nothing_could_run_are_refused(bench):
    with pytest.raises(ConfigError, match="at least 1"):
        bench(budget=0)
    with pytest.raises(ConfigError, match="chunk of 64"):
        bench(budget=32, limits={"chunk_multiple": 64})
    with pytest.raises(ConfigError, match="fcfs, priority"):
        bench(settings={"policy": "lottery"})


def test_slots_tell_the_waste_of_running_sequences(bench):
    b = bench()
    b.add("a", 20)
    b.add("b", 33)
    b.step()
    assert b.scheduler.slots() == ((2 + 3) * 16, 53)
    b.finish("a", "b")
    assert b.scheduler.slots() == (0, 0)


def test_prefix_hits_are_counted_in_tokens(bench):
    b = bench()
    b.add("a", 40, 1, same=True)
    b.run()
    b.add("b", 40, 1, same=True)
    assert b.step() == {"b": 8}
    counters = b.scheduler.counters
    assert (counters.prefix_requests, counters.prefix_queried_tokens) == (2, 80)
    assert counters.prefix_hit_tokens == 32
    assert counters.finished == {"length": 2}


def test_scored_prompts_are_computed_in_full(bench):
    b = bench()
    b.add("a", 40, 1, same=True)
    b.run()
    b.add("b", 40, 1, same=True, prompt_logprobs=1)
    assert b.step() == {"b": 40}


def test_a_pooling_request_preempted_in_flight_is_answered_all_the_same(bench):
    b = bench(pool=11, caching=False)
    b.add("a", 80, 20)
    first = b.schedule()
    b.add("p", 80, None, pooling=True)
    second = b.schedule()
    b.update(first)
    assert b.schedule().preempted == ["p"]
    result = StepResult(np.zeros((0, 1), np.int32), embeddings=np.ones((1, 4), np.float32))
    (event,) = b.scheduler.update(second, result)
    assert (event.finish, event.row) == (FinishReason.STOP, 0)
    assert event.sequence.state.terminal
    assert b.waiting == []


def test_a_pooled_vector_that_is_not_finite_fails_its_request(bench):
    b = bench()
    b.add("p", 40, None, pooling=True, same=True)
    plan = b.schedule()
    bad = np.array([[1.0, np.inf]], np.float32)
    (event,) = b.scheduler.update(plan, StepResult(np.zeros((0, 1), np.int32), embeddings=bad))
    assert event.error == "model_numerical_error"
    b.add("next", 40, same=True)
    plan = b.schedule()
    assert b.sizes(plan) == {"next": 40}
    assert len(plan.zeroed) == 3


def test_drafts_for_nobody_are_ignored(bench):
    b = bench()
    b.add("a", 10)
    b.scheduler.offer_drafts("a", [1, 2])
    b.scheduler.offer_drafts("nobody", [1, 2])
    assert b.scheduler.sequences["a"].drafts == []


def test_a_reset_forgets_beginnings_of_blocks_too(bench):
    b = bench(cache={"match_unit": 4})
    b.add("a", 30, 1, same=True)
    b.run()
    assert b.scheduler.reset_prefix_cache()
    b.add("b", 30, 1, same=True)
    assert b.step() == {"b": 30}
