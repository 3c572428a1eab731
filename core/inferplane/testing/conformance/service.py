"""Level 7, service: under load, aborts and deaths each request ends once and leaves nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest

from inferplane.engine.client import EngineClient
from inferplane.engine.engine import Engine
from inferplane.engine.messages import Admitted, SequenceOutput
from inferplane.errors import ConfigError, EngineError
from inferplane.request import FinishReason, Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.conformance.subject import Subject

__all__ = ["Load", "ServiceConformance", "replace_id"]

PATIENCE_S = 600.0
"""Nothing is timed; this only ends a test that would wait for ever."""


@dataclass
class Load:
    """What a run of the engine brought."""

    finished: dict[str, FinishReason] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    prompts: dict[str, Request] = field(default_factory=dict)

    def alive(self) -> list[str]:
        """Requests that have not ended, oldest first."""
        return [name for name in self.prompts if name not in self.finished]

    def take(self, engine: Engine) -> None:
        """Read and clear the engine's outputs; each request may end once."""
        outputs: list[SequenceOutput] = [*engine.outputs]
        engine.outputs.clear()
        for output in outputs:
            assert output.request_id not in self.finished, "an output after the end"
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish is not None:
                self.finished[output.request_id] = output.finish


class ServiceConformance(Conformance):
    """L7."""

    level: ClassVar[int] = 7

    @pytest.fixture
    def started(self, subject: Subject, inferplane_kit: KitState) -> Iterator[Started]:
        """An executor of its own, which no other test has touched."""
        started = inferplane_kit.start(subject, inferplane_kit.model("llama"))
        yield started
        started.executor.close()

    def test_every_request_ends_once_and_leaves_nothing(
        self, started: Started, subject: Subject
    ) -> None:
        """Random requests; equal ones have equal answers, whoever shares the batch."""
        engine = _engine(started)
        load = _run(engine, list(_requests(started, subject.samples(1000), seed=1)))
        assert set(load.finished) == set(load.prompts)
        assert set(load.finished.values()) <= {FinishReason.LENGTH, FinishReason.STOP}
        _assert_equal_requests_agree(load)
        _assert_nothing_left(engine)

    def test_a_storm_of_aborts_leaves_nothing(self, started: Started, subject: Subject) -> None:
        """Waiting, in the middle of a prompt, while decoding: in any state, at any time."""
        engine = _engine(started)
        (probe,) = _requests(started, 1, seed=3)
        before = _run(engine, [probe])
        requests = list(_requests(started, subject.samples(1000) + 200, seed=2))
        load = _run(engine, requests, abort_share=0.4)
        assert set(load.finished) == set(load.prompts)
        assert FinishReason.ABORT in load.finished.values()
        assert FinishReason.ERROR not in load.finished.values()
        _assert_nothing_left(engine)
        after = _run(engine, [replace_id(probe, "again")])
        assert after.tokens["again"] == before.tokens[probe.request_id]

    def test_an_aborted_prompt_gives_its_place_back(self, started: Started) -> None:
        """Ended in the middle of its prompt, before any answer, more often than there are lanes."""
        engine, config = _engine(started), started.plan.config
        length = min(2 * config.max_batched_tokens, config.max_model_len - 1)
        params = SamplingParams(temperature=0.0, max_tokens=1)
        load = Load()
        for number in range(8 * config.max_num_seqs):
            prompt = tuple(3 + (number + n) % 300 for n in range(length))
            request = Request(request_id=f"{number}", prompt_ids=prompt, sampling=params)
            load.prompts[request.request_id] = request
            assert isinstance(engine.add(request), Admitted)
            engine.step()
            engine.abort([request.request_id])
            load.take(engine)
        while engine.busy:
            engine.step()
        load.take(engine)
        assert set(load.finished.values()) <= {FinishReason.ABORT, FinishReason.LENGTH}
        _assert_nothing_left(engine)

    def test_scarce_memory_delays_and_changes_nothing(
        self, started: Started, subject: Subject
    ) -> None:
        """With blocks for two requests, many are preempted and all end as they would have."""
        requests = list(_requests(started, max(40, subject.samples(100)), seed=4))
        plenty = _run(_engine(started), requests)
        longest = max(len(r.prompt_ids) + (r.sampling.max_tokens or 0) for r in requests)
        size, groups = started.kv.block_size, len(started.kv.groups)
        scarce = 1 + groups * 2 * (-(-longest // size) + 1)
        engine = _engine(started, num_blocks=min(scarce, started.kv.num_blocks))
        load = _run(engine, [replace_id(r, f"scarce {r.request_id}") for r in requests])
        for name, tokens in plenty.tokens.items():
            assert load.tokens[f"scarce {name}"] == tokens
        _assert_nothing_left(engine)

    def test_a_killed_engine_is_an_error_or_nothing_at_all(
        self, subject: Subject, inferplane_kit: KitState
    ) -> None:
        """It ends with a typed error or as if nothing had happened; the next one is served."""
        plan = subject.plan(inferplane_kit.model("llama"))
        asyncio.run(_kill_and_ask_again(EngineClient.with_plan(plan)))

    def test_two_ranks_are_one(self, subject: Subject, inferplane_kit: KitState) -> None:
        """The same tokens from a model in two pieces."""
        model = inferplane_kit.model("llama")
        try:
            plan = subject.plan(model, tensor_parallel=2)
        except ConfigError as refusal:
            pytest.skip(f"two ranks: {refusal}")
        if subject.quick:
            pytest.skip("a quick run starts one rank")
        one = EngineClient.with_plan(subject.plan(model))
        assert asyncio.run(_answers(EngineClient.with_plan(plan))) == asyncio.run(_answers(one))


def replace_id(request: Request, request_id: str) -> Request:
    """The same request under another name."""
    return Request(request_id=request_id, prompt_ids=request.prompt_ids, sampling=request.sampling)


def _engine(started: Started, num_blocks: int = 0) -> Engine:
    """An engine over the executor; a clock that ticks at every look."""
    ticks = itertools.count()
    kv = replace(started.kv, num_blocks=num_blocks or started.kv.num_blocks)
    return Engine(
        started.executor,
        kv,
        started.plan,
        started.policy,
        lambda: next(ticks) * 1e-6,
        hash_root=b"kit",
    )


def _requests(started: Started, count: int, seed: int) -> Iterator[Request]:
    """Random requests over few prompts, so that many are equal; chance only where it is obeyed."""
    rng = np.random.default_rng(seed)
    vocab, caps = started.plan.model.vocab_size, started.plan.caps
    longest = min(60, started.plan.config.max_batched_tokens)
    prompts = [
        tuple(int(t) for t in rng.integers(3, vocab, rng.integers(1, longest))) for _ in range(12)
    ]
    warm = caps.sampler.host_rows or {"temperature", "seed"} <= set(caps.sampler.params)
    for number in range(count):
        greedy = not warm or rng.random() < 0.5
        params = SamplingParams(
            temperature=0.0 if greedy else 1.0,
            seed=int(rng.integers(0, 4)),
            max_tokens=int(rng.integers(1, 12)),
            ignore_eos=True,
        )
        prompt = prompts[int(rng.integers(0, len(prompts)))]
        yield Request(request_id=f"{seed}-{number}", prompt_ids=prompt, sampling=params)


def _run(engine: Engine, requests: list[Request], abort_share: float = 0.0) -> Load:
    """Hand requests in as the engine goes, abort some at random, until all have ended."""
    rng = np.random.default_rng(len(requests))
    load, waiting = Load(), list(reversed(requests))
    while waiting or engine.busy:
        while waiting and len(load.alive()) < 24 and rng.random() < 0.7:
            request = waiting.pop()
            answer = engine.add(request)
            assert isinstance(answer, Admitted), answer
            load.prompts[request.request_id] = request
        engine.step()
        load.take(engine)
        alive = load.alive() if abort_share else []
        if alive and rng.random() < abort_share:
            chosen = rng.choice(len(alive), min(len(alive), int(rng.integers(1, 4))), replace=False)
            engine.abort([alive[int(n)] for n in chosen])
            load.take(engine)
    load.take(engine)
    return load


def _assert_equal_requests_agree(load: Load) -> None:
    """Same prompt, seed and temperature: one is the beginning of the other."""
    longest: dict[tuple[object, ...], list[int]] = {}
    for name, request in load.prompts.items():
        params = request.sampling
        key = request.prompt_ids, params.temperature, params.temperature and params.seed
        known, tokens = longest.setdefault(key, load.tokens[name]), load.tokens[name]
        shared = min(len(known), len(tokens))
        assert known[:shared] == tokens[:shared], name
        if len(tokens) > len(known):
            longest[key] = tokens


def _assert_nothing_left(engine: Engine) -> None:
    """One more idle look, so that the last lanes are told; then everything is free."""
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.blocks_free == stats.blocks_total
    assert not engine.busy


async def _kill_and_ask_again(client: EngineClient) -> None:
    await client.start()
    try:
        await client.wait_ready(PATIENCE_S)
        want = await _ask(client, "before", 40)
        stream = await client.submit(
            (5, 6, 7), SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
        )
        first = await anext(aiter(stream))
        assert first[1].token_ids
        os.kill(client.pid, signal.SIGKILL)
        got, errors = list(first[1].token_ids), []
        try:
            async for _, output in stream:
                got += output.token_ids
                errors += [output.error] if output.finish is FinishReason.ERROR else []
        except EngineError as error:
            errors.append(error.code)
        assert errors or got == want
        await asyncio.wait_for(_until_ready(client), PATIENCE_S)
        assert await _ask(client, "after", 40) == want
    finally:
        await client.close()


async def _until_ready(client: EngineClient) -> None:
    while client.info is None or client.status.phase != "ready":
        if client.status.failure is not None:
            raise client.status.failure
        await asyncio.sleep(0.02)


async def _answers(client: EngineClient) -> list[list[int]]:
    await client.start()
    try:
        await client.wait_ready(PATIENCE_S)
        return [await _ask(client, f"answer {n}", 12, first=5 + n) for n in range(4)]
    finally:
        await client.close()


async def _ask(client: EngineClient, name: str, count: int, first: int = 5) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    stream = await client.submit((first, 6, 7), params, request_id=name)
    (output,) = await stream.collect()
    assert output.finish is FinishReason.LENGTH, output.error
    return list(output.token_ids)
