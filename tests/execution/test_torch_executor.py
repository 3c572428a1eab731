"""Laws of the core's executor on a platform that brings nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inferplane.errors import DeviceError
from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import Bucket, ShapePolicy, StepShape
from inferplane.sampling.host_sampler import log_softmax
from inferplane.shapes import DecodeLadder, Rectangles, TokenGrid
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.driver import Work
from inferplane.testing.reference import ReferenceModel
from inferplane.testing.traced import TracedCompiler

PROMPTS = [list(range(5 + i, 5 + i + n)) for i, n in enumerate((3, 17, 40, 1, 33))]
RECTANGLES = Rectangles(
    decode_batches=(2, 8),
    prefill_batches=(2,),
    queries=(8, 48),
    context_blocks=(200,),
    max_tokens=100,
)


@pytest.fixture(autouse=True)
def forget_traces() -> Iterator[None]:
    """Torch counts what it traced by line of code, over all tests."""
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def greedy(tiny: Callable[[str], Path]) -> Callable[[str, int], list[list[int]]]:
    """Greedy continuations of PROMPTS by the kit's independent decoder."""
    known: dict[tuple[str, int], list[list[int]]] = {}

    def continuations(kind: str, count: int) -> list[list[int]]:
        if (kind, count) not in known:
            model = ReferenceModel(tiny(kind))
            known[kind, count] = [model.greedy(prompt, count) for prompt in PROMPTS]
        return known[kind, count]

    return continuations


def run_together(machine, count: int, prefill_together: bool = True):
    """All of PROMPTS in one batch: prefill (together if it may be), then decode `count` tokens."""
    driver, draw = machine.driver, Draw()
    lives = [driver.begin(prompt) for prompt in PROMPTS]
    if prefill_together:
        rows = driver.step([Work(live, len(live.tokens), draw) for live in lives])
    else:
        rows = [driver.prefill(live, draw) for live in lives]
    for _ in range(count - 1):
        for live, row in zip(lives, rows, strict=True):
            live.tokens.append(row.token_ids[0])
        rows = driver.step([Work(live, 1, draw) for live in lives])
    out = [
        [*live.tokens[live.num_prompt :], row.token_ids[0]]
        for live, row in zip(lives, rows, strict=True)
    ]
    driver.end(*lives)
    return out


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_a_batch_of_different_lengths_continues_as_each_prompt_alone(kind, start, greedy) -> None:
    assert run_together(start(kind), 12) == greedy(kind, 12)


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_a_prompt_in_chunks_continues_as_in_one_piece(chunk, start, greedy) -> None:
    driver = start("gemma3").driver
    for prompt, expected in zip(PROMPTS, greedy("gemma3", 12), strict=True):
        live = driver.begin(prompt)
        row = driver.prefill(live, Draw(), chunk)
        assert row.token_ids == expected[:1]
        driver.end(live)


POLICIES = [
    DecodeLadder(8, sizes=(2, 8)),
    TokenGrid(96, 8, tokens=(16, 96), seqs=(8,)),
    RECTANGLES,
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_padding_to_buckets_changes_no_token(policy, start, greedy, plain) -> None:
    machine = start("gemma3", plain(policy))
    mixes = not isinstance(policy, Rectangles)
    assert run_together(machine, 12, prefill_together=mixes) == greedy("gemma3", 12)
    stats = machine.executor.stats()
    assert stats.padded_tokens > stats.real_tokens > 0


@pytest.mark.parametrize(
    "policy", [DecodeLadder(8, sizes=(8,)), TokenGrid(96, 8, tokens=(96,), seqs=(8,))]
)
def test_a_traced_program_runs_what_eager_steps_run(policy, start, greedy, plain) -> None:
    machine = start("llama", plain(policy, TracedCompiler()))
    assert run_together(machine, 12) == greedy("llama", 12)
    assert machine.executor.stats().compiles_after_start == 0


def test_one_program_a_bucket_is_made_at_start_and_none_later(start, plain) -> None:
    compiler = TracedCompiler()
    machine = start("llama", plain(DecodeLadder(8, sizes=(1, 8)), compiler))
    assert compiler.graphs == 2
    run_together(machine, 4)
    assert compiler.graphs == 2 and machine.executor.stats().compiles == 2


class SmallSteps(ShapePolicy):
    """Names a bucket at start, and another for the first real step."""

    def buckets(self) -> tuple[Bucket, ...]:
        return (Bucket("mixed", 16, 8),)

    def select(self, shape: StepShape) -> Bucket | None:
        return Bucket("mixed", 96, 8)


def test_a_program_made_while_serving_is_counted(start, plain) -> None:
    machine = start("llama", plain(SmallSteps(), TracedCompiler()))
    machine.driver.generate(PROMPTS[0], 2)
    assert machine.executor.stats().compiles_after_start == 1


class SomeShape(TracedCompiler):
    """Runs whatever comes: stands for a compiler whose program takes any shape."""

    dynamic = True

    def compile(self, fn, bucket, kv, example):
        self.seen = []

        def program(kv, inputs):
            self.seen.append(inputs["token_ids"].shape[0])
            assert {"rows", "token_source", "previous"} <= set(inputs)
            return fn(kv, inputs)

        return program


def test_a_compiler_that_takes_any_shape_gets_steps_unpadded(start, plain, greedy) -> None:
    compiler = SomeShape()
    machine = start("llama", plain(TokenGrid(96, 8, tokens=(96,), seqs=(8,)), compiler))
    assert run_together(machine, 12) == greedy("llama", 12)
    assert set(compiler.seen) == {1, sum(map(len, PROMPTS)), len(PROMPTS)}
    stats = machine.executor.stats()
    assert stats.padded_tokens == stats.real_tokens


class Lacking(SomeShape):
    """Says what it had to do without."""

    def stats(self):
        return replace(super().stats(), fallbacks={"fast path": 1})


def test_what_a_compiler_did_without_is_counted_with_the_fallbacks(start, plain) -> None:
    grid = TokenGrid(96, 8, tokens=(96,), seqs=(8,))
    fallbacks = start("llama", plain(grid, Lacking())).executor.stats().fallbacks
    assert fallbacks["fast path"] == 1 and fallbacks["rms_norm/1"] > 0


def test_the_next_step_may_start_before_the_last_tokens_are_known(start, greedy) -> None:
    driver = start("llama").driver
    lives = [driver.begin(prompt) for prompt in PROMPTS]
    pending = driver.enqueue([Work(live, len(live.tokens), Draw()) for live in lives])
    drawn: list[list[int]] = [[] for _ in lives]
    for _ in range(11):
        for live in lives:
            live.tokens.append(0)  # not known yet: the device has it
        ahead = driver.enqueue(
            [Work(live, 1, Draw(), source=row) for row, live in enumerate(lives)]
        )
        for tokens, ids in zip(drawn, pending.result().token_ids, strict=True):
            tokens.append(int(ids[0]))
        pending = ahead
    for tokens, ids in zip(drawn, pending.result().token_ids, strict=True):
        tokens.append(int(ids[0]))
    assert drawn == greedy("llama", 12)


@pytest.mark.parametrize("policy", [None, DecodeLadder(8, max_query=4)], ids=["none", "ladder"])
def test_drafts_are_accepted_up_to_the_first_wrong_one(policy, start, greedy, plain) -> None:
    driver = start("llama", plain(policy)).driver
    prompt, expected = PROMPTS[1], greedy("llama", 12)[1]
    wrong = (expected[2] + 1) % 100
    for guesses, accepted in (
        (expected[1:4], 4),
        ([expected[1], wrong, expected[3]], 2),
        ([wrong, expected[2]], 1),
    ):
        live = driver.begin(prompt)
        live.tokens.append(driver.prefill(live, Draw()).token_ids[0])
        live.tokens += guesses
        row = driver.step([Work(live, 1 + len(guesses), Draw(), drafts=len(guesses))])[0]
        assert row.token_ids == expected[1 : 1 + accepted]
        driver.end(live)


def test_drafts_change_no_drawn_token(start) -> None:
    driver = start("llama").driver
    draw = Draw(temperature=1.3, seed=11)
    plain_tokens = driver.generate(PROMPTS[2], 6, draw)
    live = driver.begin(PROMPTS[2])
    live.tokens.append(driver.prefill(live, draw).token_ids[0])
    live.tokens += plain_tokens[1:4]
    row = driver.step([Work(live, 4, draw, drafts=3)])[0]
    assert row.token_ids == plain_tokens[1:5]


@pytest.mark.parametrize("drafter", [0, 1], ids=["drafts first", "drafts last"])
def test_drafts_of_one_leave_another_its_logprobs(drafter, start) -> None:
    driver = start("llama").driver
    wants = Draw(num_logprobs=2)
    alone = driver.begin(PROMPTS[2])
    alone.tokens.append(driver.prefill(alone, wants).token_ids[0])
    expected = driver.step([Work(alone, 1, wants)])[0]
    drafting, asking = driver.begin(PROMPTS[1]), driver.begin(PROMPTS[2])
    drafting.tokens.append(driver.prefill(drafting, Draw()).token_ids[0])
    asking.tokens.append(driver.prefill(asking, wants).token_ids[0])
    drafting.tokens += [1, 2, 3]
    work = [Work(asking, 1, wants)]
    work.insert(drafter, Work(drafting, 4, Draw(), drafts=3))
    row = driver.step(work)[1 - drafter]
    assert row.token_ids == expected.token_ids
    for found, right in zip(row.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)


def test_scores_and_host_logits_are_those_of_the_model(start, tiny) -> None:
    driver = start("llama").driver
    prompt = PROMPTS[1]
    live = driver.begin(prompt)
    scored = tuple((i, prompt[i + 1]) for i in range(len(prompt) - 1))
    row = driver.step([Work(live, len(prompt), host=True, scored=scored)])[0]
    logits = ReferenceModel(tiny("llama")).logits(prompt)
    assert row.logits is not None
    np.testing.assert_allclose(row.logits, logits[-1], atol=2e-4)
    expected = [log_softmax(logits[i])[token] for i, token in scored]
    np.testing.assert_allclose(row.scores, expected, atol=2e-4)


def test_a_request_refuses_no_step_after_a_row_that_failed(start) -> None:
    machine = start("llama")
    driver = machine.driver
    sick, well = driver.begin(PROMPTS[1]), driver.begin(PROMPTS[2])
    expected = driver.generate(PROMPTS[2], 2)
    rows = driver.step([Work(live, len(live.tokens), Draw()) for live in (sick, well)])
    store = machine.executor._store
    for layer in driver.kv.groups[0].layers:
        slots = np.array([sick.tables[0][0] * driver.kv.block_size], np.int32)
        k, v = store.read_tokens(layer.name, slots)
        store.write_tokens(layer.name, slots, k * np.float32(np.nan), v)
    for live, row in zip((sick, well), rows, strict=True):
        live.tokens.append(row.token_ids[0])
    rows = driver.step([Work(live, 1, Draw()) for live in (sick, well)])
    assert rows[0].failed and not rows[1].failed
    assert [well.tokens[-1], rows[1].token_ids[0]] == expected


def test_zeroed_and_copied_blocks_are_served_before_the_step(start, greedy) -> None:
    driver = start("llama").driver
    prompt, expected = PROMPTS[2], greedy("llama", 12)[2]
    live = driver.begin(prompt)
    driver.prefill(live, Draw())
    twin, copied = driver.fork(live, 39)
    twin.tokens.append(prompt[39])
    rows = driver.step([Work(twin, 1, Draw())], copied=copied)
    assert rows[0].token_ids == expected[:1]
    other = driver.begin(PROMPTS[1], blocks=[driver.kv.num_blocks - 1])
    row = driver.step([Work(other, 17, Draw())], zeroed=[driver.kv.num_blocks - 1])[0]
    assert row.token_ids == greedy("llama", 12)[1][:1]


def test_sleep_with_a_copy_changes_nothing(start, greedy) -> None:
    machine = start("llama")
    before = machine.executor._allocator.used()
    machine.executor.sleep(("weights", "kv"), keep_copy=True)
    asleep = machine.executor._allocator.used()
    machine.executor.wake(("weights", "kv"))
    assert before["weights"] > 0 and before["kv"] > 0
    assert asleep["weights"] == 0 and asleep["kv"] == 0
    assert run_together(machine, 12) == greedy("llama", 12)


class LosableDevice(HostRuntime):
    """Fails at the upload once `lost` is set, as a driver would."""

    lost = False

    def to_device(self, arrays, bucket):
        if self.lost:
            raise RuntimeError("device lost")
        return super().to_device(arrays, bucket)


def test_what_the_device_raises_in_a_step_is_a_device_error(start, plain) -> None:
    device = LosableDevice()
    driver = start("llama", plain(device=device)).driver
    live = driver.begin(PROMPTS[0])
    device.lost = True
    with pytest.raises(DeviceError, match="device lost"):
        driver.step([Work(live, 1, Draw())])


def test_every_fallback_to_a_reference_is_counted(start) -> None:
    fallbacks = start("llama").executor.stats().fallbacks
    assert fallbacks["attention"] == 3 and fallbacks["rms_norm/1"] > 0


def test_closing_twice_is_harmless(start) -> None:
    executor = start("llama").executor
    executor.close()
    executor.close()


class RehearsingDevice(HostRuntime):
    """Keeps the tokens of each upload, and those of which steps were rehearsed."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, str]] = []
        self.mode = "real"

    @contextmanager
    def rehearsal(self, last):
        self.mode = "last rehearsal" if last else "rehearsal"
        yield True
        self.mode = "real"

    def memory(self):
        return replace(super().memory(), shared_with_host=False)

    def to_device(self, arrays, bucket):
        self.steps.append((len(arrays["token_ids"]), self.mode))
        return super().to_device(arrays, bucket)


def test_what_a_device_rehearses_is_run_for_real_before_requests_come(start, plain, greedy) -> None:
    device = RehearsingDevice()
    machine = start("llama", plain(device=device, policy=DecodeLadder(8)))
    buckets = [bucket.num_tokens for bucket in DecodeLadder(8).buckets()]
    assert device.steps == [
        (96, "rehearsal"),
        *((tokens, "last rehearsal") for tokens in buckets),
        (96, "real"),
        *((tokens, "real") for tokens in buckets),
    ]
    assert run_together(machine, 3) == greedy("llama", 3)
