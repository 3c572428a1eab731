import random
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from inferplane.engine.engine import Engine
from inferplane.engine.messages import Admitted, Rejected, SequenceOutput
from inferplane.launch import SchedulerConfig
from inferplane.request import FinishReason, Request
from inferplane.sampling.host_sampler import log_softmax
from inferplane.sampling_params import SamplingParams
from inferplane.scheduling.sequence import SequenceState
from inferplane.testing.null import NullExecutor, null_tokens
from inferplane.testing.null_engine import NULL_PLATFORMS, null_engine, null_plan, null_request

Ended = dict[str, list[SequenceOutput]]


def run(engine: Engine, between: Callable[[], None] = lambda: None) -> Ended:
    """Step until idle; everything that came out, by request."""
    seen: Ended = defaultdict(list)
    while engine.busy:
        engine.step()
        for output in engine.outputs:
            seen[output.request_id].append(output)
        engine.outputs.clear()
        between()
    return seen


def tokens(outputs: list[SequenceOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def terminal(outputs: list[SequenceOutput]) -> list[FinishReason]:
    return [output.finish for output in outputs if output.finish is not None]


def all_free(engine: Engine, executor: NullExecutor) -> bool:
    stats = engine.stats()
    idle = not engine.scheduler.num_unfinished and not engine.in_flight
    return idle and stats.blocks_free == stats.blocks_total and stats.slots_allocated == 0


@pytest.mark.parametrize("device", NULL_PLATFORMS)
@pytest.mark.parametrize("blocks", ["300", "34"], ids=["roomy", "preempting"])
@pytest.mark.parametrize("windows", ["", "0 24"])
def test_every_token_is_what_the_sequence_alone_would_have(device, blocks, windows) -> None:
    plan = null_plan(device, options={"blocks": blocks, "windows": windows})
    engine, executor = null_engine(plan)
    rng = random.Random(7)
    expected = {}
    for number in range(40):
        prompt = tuple(rng.randrange(1000) for _ in range(rng.randrange(1, 60)))
        count = rng.randrange(1, 40)
        engine.add(null_request(str(number), prompt, max_tokens=count))
        expected[str(number)] = null_tokens(prompt, count, 1000)
    seen = run(engine)
    assert {name: tokens(outputs) for name, outputs in seen.items()} == expected
    assert all_free(engine, executor)
    if blocks == "34":
        assert engine.stats().preemptions > 0


def _varied_request(number: int, rng: random.Random) -> Request:
    prompt = tuple(rng.randrange(64) for _ in range(rng.randrange(1, 50)))
    extras: dict[str, object] = {
        0: {"temperature": 0.0},
        1: {"top_k": 5, "top_p": 0.9},
        2: {"presence_penalty": 0.5, "repetition_penalty": 1.3, "frequency_penalty": 0.2},
        3: {"logit_bias": {3: 5.0, 9: -100.0}, "min_p": 0.05},
        4: {"min_tokens": 6, "stop_token_ids": tuple(range(0, 64, 3))},
        5: {"bad_words_ids": ((4,), (5, 6), (7, 8, 9)), "allowed_token_ids": tuple(range(4, 40))},
        6: {"logprobs": 3},
    }[number % 7]  # type: ignore[assignment]
    params = {"temperature": 0.7, "seed": number, "max_tokens": rng.randrange(1, 30), **extras}
    return Request(
        request_id=str(number),
        prompt_ids=prompt,
        sampling=SamplingParams(**params),
        eos_ids=(1,),
    )


def _varied_run(device: str, num_drafts: int = 0, **config: int) -> dict[str, list[int]]:
    scheduler = SchedulerConfig(max_waiting=100, num_drafts=num_drafts)
    engine, executor = null_engine(null_plan(device, scheduler=scheduler, vocab_size=64, **config))
    rng = random.Random(3)
    for number in range(35):
        assert isinstance(engine.add(_varied_request(number, rng)), Admitted)
    seen = run(engine)
    assert all_free(engine, executor)
    return {name: tokens(outputs) for name, outputs in seen.items()}


def test_overlap_host_sampling_and_batch_size_change_no_token() -> None:
    overlapped = _varied_run("null")
    assert overlapped == _varied_run("null_sync")
    assert overlapped == _varied_run("null_narrow")  # every row but greedy ones drawn on the host
    assert overlapped == _varied_run("null_sync", max_num_seqs=1)


@pytest.mark.case("feature-pairs")
@pytest.mark.parametrize(
    "extras",
    [
        {"presence_penalty": 1.5, "frequency_penalty": 0.4},
        {"repetition_penalty": 1.5},
        {"logit_bias": {3: 5.0}},
        {"min_tokens": 30, "stop_token_ids": (2, 3)},
        {"bad_words_ids": ((1, 2), (3, 4, 5), (0,))},
        {"allowed_token_ids": (1, 2, 5)},
        {"logprobs": 2},
        {"prompt_logprobs": 1},
        {"top_p": 0.7, "top_k": 3},
    ],
    ids=lambda extras: next(iter(extras)),
)
def test_speculation_changes_nothing_whatever_else_is_asked(extras) -> None:
    seen = []
    for num_drafts in (0, 4):
        scheduler = SchedulerConfig(num_drafts=num_drafts)
        engine, executor = null_engine(null_plan("null_sync", vocab_size=6, scheduler=scheduler))
        for number in range(8):
            prompt = (1, 2, number % 6)
            params = {"temperature": 0.6, "seed": number, "max_tokens": 60, **extras}
            engine.add(null_request(str(number), prompt, **params))
        outputs = run(engine)
        assert all_free(engine, executor)
        seen.append(
            {
                name: (
                    tokens(parts),
                    [entry.values for part in parts for entry in part.logprobs or ()],
                    [part.prompt_logprobs for part in parts if part.prompt_logprobs],
                )
                for name, parts in outputs.items()
            }
        )
    assert seen[0] == seen[1]


def test_min_tokens_keeps_stop_tokens_away_and_no_longer() -> None:
    engine, _ = null_engine(null_plan(vocab_size=16))
    stops = tuple(range(8))
    engine.add(
        null_request(
            "a", (3, 4), max_tokens=100, min_tokens=5, stop_token_ids=stops, temperature=1.0, seed=1
        )
    )
    outputs = run(engine)["a"]
    made = tokens(outputs)
    assert len(made) > 5 and not set(made[:5]) & set(stops)
    assert outputs[-1].finish is FinishReason.STOP and outputs[-1].stop_reason == made[-1]


def test_forbidden_and_allowed_tokens_are_obeyed() -> None:
    engine, _ = null_engine(null_plan(vocab_size=16))
    engine.add(null_request("allowed", (3,), max_tokens=60, allowed_token_ids=(2, 5, 11)))
    engine.add(
        null_request(
            "bad", (3,), max_tokens=200, temperature=2.0, seed=1, bad_words_ids=((6,), (1, 2))
        )
    )
    seen = run(engine)
    assert set(tokens(seen["allowed"])) <= {2, 5, 11}
    bad = tokens(seen["bad"])
    assert 6 not in bad and (1, 2) not in set(zip(bad, bad[1:], strict=False))
    assert 1 in bad and 2 in bad


@pytest.mark.parametrize("device", ["null", "null_narrow"])
def test_logprobs_are_those_of_the_tokens(device) -> None:
    engine, executor = null_engine(null_plan(device, vocab_size=64))
    engine.add(null_request("a", (3, 4, 5), max_tokens=5, logprobs=4))
    engine.add(null_request("plain", (3, 4, 5), max_tokens=5))
    seen = run(engine)
    assert all(output.logprobs is None for output in seen["plain"])
    for output in seen["a"]:
        assert output.logprobs is not None and len(output.logprobs) == 1
        entry = output.logprobs[0]
        assert entry.ids[0] == output.token_ids[0] == entry.ids[1] and entry.rank == 1
        assert len(entry.ids) == 5
        assert list(entry.values[1:]) == sorted(entry.values[1:], reverse=True)


@pytest.mark.parametrize("max_batched_tokens", [8, 64], ids=["chunked", "whole"])
def test_prompt_logprobs_cover_the_prompt_once_however_it_is_cut(max_batched_tokens) -> None:
    engine, executor = null_engine(null_plan(vocab_size=32, max_batched_tokens=max_batched_tokens))
    prompt = tuple(np.random.default_rng(0).integers(0, 32, 40).tolist())
    engine.add(null_request("warm", prompt, max_tokens=2))
    run(engine)  # fills the prefix cache, which must not be used for scoring
    engine.add(null_request("a", prompt, max_tokens=2, prompt_logprobs=2))
    engine.add(null_request("b", prompt[:20], max_tokens=2, prompt_logprobs=0))
    seen = run(engine)
    first, *rest = seen["a"]
    assert all(output.prompt_logprobs is None for output in rest)
    assert first.prompt_logprobs is not None and first.prompt_logprobs[0] is None
    entries = first.prompt_logprobs[1:]
    assert [entry.ids[0] for entry in entries if entry] == list(prompt[1:])
    assert {len(entry.ids) for entry in entries if entry} == {3}
    for position, entry in enumerate(entries, 1):
        logits = executor._logits(_digest(prompt[:position]))[0]
        assert entry is not None
        assert np.isclose(entry.values[0], log_softmax(logits)[prompt[position]], atol=1e-5)
    shorter = seen["b"][0].prompt_logprobs
    assert shorter is not None and {len(entry.ids) for entry in shorter if entry} == {1}
    assert [e.values[0] for e in shorter if e] == [e.values[0] for e in entries[:19] if e]


def _digest(token_ids: tuple[int, ...]) -> np.ndarray:
    from inferplane.testing.shadow_kv import mix

    places = np.arange(len(token_ids), dtype=np.uint64)
    return mix(np.array(token_ids, np.uint64), places).sum(keepdims=True)


def test_a_request_with_drafts_draws_what_it_would_draw_without() -> None:
    plain, drafted = {}, {}
    for drafts, found in ((0, plain), (4, drafted)):
        plan = null_plan("null_sync", vocab_size=4, scheduler=SchedulerConfig(num_drafts=drafts))
        engine, executor = null_engine(plan)
        for number in range(6):
            request = null_request(
                str(number), (1, 2, number % 4), max_tokens=60, temperature=0.2 * number, seed=5
            )
            engine.add(request)
        found.update({name: tokens(outputs) for name, outputs in run(engine).items()})
        assert all_free(engine, executor)
        if drafts:
            assert engine.stats().accepted_tokens > 0
    assert plain == drafted


# ── ends ──


def _until(engine: Engine, request_id: str, state: SequenceState, outputs: int) -> Ended:
    """Step until a request is in a state and has so many outputs."""
    seen: Ended = defaultdict(list)
    sequence = engine.scheduler.sequences[request_id]
    for _ in range(1000):
        if sequence.state is state and sequence.num_output_tokens >= outputs:
            return seen
        engine.step()
        for output in engine.outputs:
            seen[output.request_id].append(output)
        engine.outputs.clear()
    raise AssertionError(f"{request_id} never became {state}")


@pytest.mark.parametrize("device", ["null", "null_sync"])
@pytest.mark.parametrize(
    ("state", "outputs", "options"),
    [
        (SequenceState.WAITING, 0, {}),
        (SequenceState.RUNNING, 0, {}),
        (SequenceState.RUNNING, 3, {}),
        (SequenceState.PREEMPTED, 1, {"blocks": "12"}),
    ],
    ids=["waiting", "prefilling", "decoding", "preempted"],
)
def test_abort_in_every_state_gives_one_end_and_all_blocks_back(
    device, state, outputs, options
) -> None:
    plan = null_plan(device, options=options, max_batched_tokens=16, max_model_len=128)
    engine, executor = null_engine(plan)
    for number in range(4):
        engine.add(null_request(str(number), tuple(range(30)), max_tokens=60))
    victim = "0" if state is SequenceState.RUNNING else "3"
    before = _until(engine, victim, state, outputs)
    engine.abort((victim, victim, "nobody"))
    ends = [output for output in engine.outputs if output.request_id == victim]
    assert terminal(ends) == [FinishReason.ABORT] and not terminal(before[victim])
    engine.abort((victim,))
    engine.outputs.clear()
    seen = run(engine)
    assert not seen[victim]
    expected = null_tokens(range(30), 60, 1000)
    for number in {"0", "1", "2", "3"} - {victim}:
        assert tokens(before[number]) + tokens(seen[number]) == expected
    assert all_free(engine, executor)


@pytest.mark.parametrize("device", ["null", "null_sync", "null_narrow"])
def test_random_requests_with_random_aborts_leave_nothing_behind(device) -> None:
    plan = null_plan(device, options={"blocks": "40"}, vocab_size=300)
    engine, executor = null_engine(plan)
    rng = random.Random(11)
    ends: dict[str, list[FinishReason]] = defaultdict(list)
    waiting = list(range(200))
    alive: set[str] = set()
    while waiting or engine.busy:
        for _ in range(rng.randrange(4)):
            if waiting:
                number = waiting.pop()
                prompt = tuple(rng.randrange(300) for _ in range(rng.randrange(1, 60)))
                request = null_request(str(number), prompt, max_tokens=rng.randrange(1, 40))
                if isinstance(engine.add(request), Admitted):
                    alive.add(str(number))
                else:
                    waiting.append(number)
        if alive and rng.random() < 0.3:
            engine.abort(rng.sample(sorted(alive), 1))
        engine.step()
        for output in engine.outputs:
            if output.finish is not None:
                ends[output.request_id].append(output.finish)
                alive.discard(output.request_id)
        engine.outputs.clear()
    assert len(ends) == 200 and all(len(found) == 1 for found in ends.values())
    assert {FinishReason.ABORT, FinishReason.LENGTH} <= {found[0] for found in ends.values()}
    assert all_free(engine, executor)


def test_a_row_that_is_not_finite_fails_alone() -> None:
    plan = null_plan(options={"nan_token": "999"})
    engine, executor = null_engine(plan)
    engine.add(null_request("good", (1, 2, 3), max_tokens=20))
    engine.add(null_request("bad", (1, 2, 999), max_tokens=20))
    engine.add(null_request("other", (7,), max_tokens=20))
    seen = run(engine)
    assert [(o.finish, o.error) for o in seen["bad"]] == [
        (FinishReason.ERROR, "model_numerical_error")
    ]
    assert tokens(seen["good"]) == null_tokens((1, 2, 3), 20, 1000)
    assert tokens(seen["other"]) == null_tokens((7,), 20, 1000)
    assert all_free(engine, executor)
    engine.add(null_request("again", (1, 2, 3) * 10, max_tokens=20))  # the blocks come back zeroed
    assert tokens(run(engine)["again"]) == null_tokens((1, 2, 3) * 10, 20, 1000)


def test_a_deadline_ends_a_request_within_one_step() -> None:
    now = [100.0]
    engine, executor = null_engine(null_plan(), clock=lambda: now[0])
    request = null_request("late", (1, 2), max_tokens=400)
    engine.add(Request(**{**_fields(request), "deadline_s": 5.0}))
    engine.add(null_request("free", (1, 2), max_tokens=30))

    def tick() -> None:
        now[0] += 1.0

    seen = run(engine, tick)
    end = seen["late"][-1]
    assert (end.finish, end.error) == (FinishReason.ERROR, "deadline_exceeded")
    assert 1 <= len(tokens(seen["late"])) <= 6
    assert terminal(seen["free"]) == [FinishReason.LENGTH]
    assert all_free(engine, executor)


def _fields(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


def test_waiting_too_long_ends_with_queue_timeout() -> None:
    now = [0.0]
    plan = null_plan(scheduler=SchedulerConfig(queue_timeout_s=10.0), max_num_seqs=1)
    engine, _ = null_engine(plan, clock=lambda: now[0])
    engine.add(null_request("first", (1,), max_tokens=100))
    engine.add(null_request("second", (1,), max_tokens=100))

    def tick() -> None:
        now[0] += 1.0

    seen = run(engine, tick)
    assert [(o.finish, o.error) for o in seen["second"]] == [(FinishReason.ERROR, "queue_timeout")]
    assert terminal(seen["first"]) == [FinishReason.LENGTH]


def test_a_full_queue_refuses_and_counts() -> None:
    plan = null_plan(scheduler=SchedulerConfig(max_waiting=2), max_num_seqs=1)
    engine, _ = null_engine(plan)
    answers = [engine.add(null_request(str(i), (1,))) for i in range(3)]
    assert [type(answer) for answer in answers] == [Admitted, Admitted, Rejected]
    refused = answers[2]
    assert isinstance(refused, Rejected) and refused.code == "queue_full"
    assert engine.stats().rejected == {"queue_full": 1}


def test_what_can_never_fit_is_refused_at_once() -> None:
    engine, _ = null_engine(null_plan(options={"blocks": "5"}))
    codes = [
        engine.add(null_request("capacity", (1,) * 60, max_tokens=100)).code,  # type: ignore[union-attr]
        engine.add(null_request("context", (1,) * 512)).code,  # type: ignore[union-attr]
        engine.add(null_request("vocabulary", (1000,))).code,  # type: ignore[union-attr]
    ]
    assert codes == ["capacity_exceeded", "context_length_exceeded", "token_out_of_vocabulary"]
    assert not engine.busy


def test_an_id_in_use_is_refused() -> None:
    engine, _ = null_engine(null_plan())
    engine.add(null_request("a", (1,)))
    assert isinstance(engine.add(null_request("a", (2,))), Rejected)
    assert len(run(engine)) == 1


def test_the_first_output_carries_times_and_cached_tokens() -> None:
    now = [0.0]
    engine, _ = null_engine(null_plan("null_sync", max_num_seqs=1), clock=lambda: now[0])
    prompt = tuple(range(40))
    engine.add(null_request("a", prompt, max_tokens=3))
    engine.add(null_request("b", prompt, max_tokens=3))

    def tick() -> None:
        now[0] += 1.0

    seen = run(engine, tick)
    assert [(o.queue_s, o.prefill_s) for o in seen["a"]] == [(0.0, 0.0)] * 3
    first, *rest = seen["b"]
    assert first.queue_s == 3.0 and all(o.queue_s == 0.0 for o in rest)
    assert seen["a"][0].cached_tokens == 0 and first.cached_tokens == 32


def test_pooling_ends_with_a_vector() -> None:
    engine, executor = null_engine(null_plan())
    engine.add(Request(request_id="a", prompt_ids=(1, 2, 3), pooling=True))
    engine.add(null_request("b", (1, 2, 3), max_tokens=3))
    engine.add(Request(request_id="c", prompt_ids=(1, 2, 4), pooling=True))
    seen = run(engine)
    (a,), (c,) = seen["a"], seen["c"]
    assert a.finish is FinishReason.STOP and not a.token_ids
    vector = np.frombuffer(a.embedding, "<f4")
    assert vector.shape == (16,) and not np.array_equal(vector, np.frombuffer(c.embedding, "<f4"))
    assert all_free(engine, executor)


def test_stats_count_what_happened() -> None:
    engine, _ = null_engine(null_plan("null_sync"))
    engine.add(null_request("a", tuple(range(20)), max_tokens=5))
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (1, 0)
    assert stats.slots_allocated == 32 and 20 <= stats.slots_used <= 21
    run(engine)
    stats = engine.stats()
    assert stats.prompt_tokens == 20 and stats.generation_tokens == 5
    assert stats.finished == {"length": 1}
    assert stats.steps == 5 and sum(stats.step_tokens) == 4 == len(stats.step_tokens)
    assert stats.real_tokens == 24
