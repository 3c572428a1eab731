"""The whole engine under faults, on the null device: what users get is what each would get alone.

Scheduler, batches, sampling rows, outputs and recovery are the real ones. The null device checks
every batch and holds the true past of each KV slot, so wrong tables or stale rows change tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TypeVar

from msgspec import structs

from inferplane.engine.messages import Admitted, SequenceOutput, TokenLogprobs
from inferplane.engine.reaper import reap
from inferplane.engine.recovery import CrashBudget, Recovery
from inferplane.engine.replay import Replay
from inferplane.errors import DeviceError
from inferplane.interfaces import ShapePolicy, StepBatch, StepResult
from inferplane.launch import LaunchPlan, SchedulerConfig
from inferplane.request import FinishReason, Request
from inferplane.sampling_params import Grammar, SamplingParams
from inferplane.testing.null import NullExecutor, NullOptions, NullPending
from inferplane.testing.null_engine import null_engine, null_plan
from inferplane.testing.simulation.letters import ENDS, allows, drawn_grammars, letter_grammars
from inferplane.testing.simulation.violation import Stuck, Violation

__all__ = ["EngineReport", "simulate_engine"]

ValueT = TypeVar("ValueT")
_VOCABULARY = 400
_CRASH, _NAN = 398, 399
"""Tokens that break a step, and a row."""
_LAST = "the last"


@dataclass(slots=True)
class EngineReport:
    """What came of a run."""

    steps: int = 0
    restarts: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    """Requests by finish reason or error code."""


@dataclass(slots=True)
class _Told:
    """What the front end has heard of one request."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    embedding: bytes = b""
    end: tuple[FinishReason, object, str] | None = None

    def hear(self, output: SequenceOutput) -> None:
        if self.end is not None:
            raise Violation(9, f"{output.request_id} goes on after its end")
        self.tokens += output.token_ids
        self.logprobs += output.logprobs or ()
        if output.prompt_logprobs is not None:
            if self.prompt_logprobs is not None:
                raise Violation(11, f"{output.request_id} is told of its prompt twice")
            self.prompt_logprobs = output.prompt_logprobs
        self.embedding += output.embedding
        if output.finish is not None:
            self.end = output.finish, output.stop_reason, output.error


class _FaultyExecutor(NullExecutor):
    """Dies now and then, as a worker does: when a step is enqueued, or when it is waited for."""

    rng: Random
    rate = 0.0

    def execute(self, batch: StepBatch) -> NullPending:
        """Raises DeviceError at the chance `rate`, now or later."""
        if self.rng.random() < self.rate / 2:
            raise DeviceError("the worker died before the step")
        pending = super().execute(batch)
        return _Lost(pending) if self.rng.random() < self.rate / 2 else pending


class _Lost(NullPending):
    """A step whose worker dies before its result is there."""

    def __init__(self, pending: NullPending) -> None:
        super().__init__(pending.step_result, pending.ready_at)

    def result(self) -> StepResult:
        """Raises DeviceError."""
        raise DeviceError("the worker died in the step")


def simulate_engine(seed: int, turns: int, grammars: bool = True) -> EngineReport:
    """Faults for `turns` steps, then peace until all have ended. Raises Violation.

    With `grammars` some requests want their output structured.
    """
    run = _Run(Random(seed), grammars)
    for _ in range(turns):
        run.disturb()
        run.step()
    run.settle()
    return run.report


class _Run:
    """One seed's engine, its requests and the hand that disturbs them."""

    def __init__(self, rng: Random, grammars: bool) -> None:
        self.rng = rng
        self.grammars = drawn_grammars() if grammars else ()
        self.report = EngineReport()
        self.now = 0.0
        self.plan = _draw_plan(rng)
        self.engine, _ = null_engine(self.plan, lambda: self.now, letter_grammars(_VOCABULARY))
        self.kv = self.engine.executor.plan_kv()
        self.death_rate = rng.choice((0.0, 0.0, 0.02, 0.1))
        self.arrival = rng.choice((0.1, 0.5, 1.5))
        self.abort_rate = rng.choice((0.0, 0.05, 0.3))
        self.recovery = Recovery(
            self.engine, lambda _: self._replace(), self._replay, CrashBudget(most=1 << 30)
        )
        self._replace()
        self.told: dict[str, _Told] = {}
        self.count = 0

    def _replace(self) -> None:
        config = self.plan.config
        executor = _FaultyExecutor(
            NullOptions.parse(config.options), self.plan.model.vocab_size, config.max_num_seqs
        )
        executor.rng, executor.rate = self.rng, self.death_rate
        executor.start(self.kv, lambda *_: None)
        self.engine.executor = self.executor = executor

    def _replay(self) -> Replay:
        # a death while a request runs alone would be taken for that request's fault, rightly
        self.executor.rate = 0.0
        return Replay(self.executor, self.kv, self.plan, ShapePolicy())

    # ── what happens ──

    def disturb(self) -> None:
        """Arrivals, departures, lost handles, a reset of the cache."""
        rng = self.rng
        left = self.arrival
        while rng.random() < left:
            left -= 1
            request = _draw_request(rng, f"r{self.count}", self.plan)
            self.add(_structured(request, self.grammars))
        alive = [name for name, told in self.told.items() if told.end is None]
        if alive and rng.random() < self.abort_rate:
            self.engine.abort(rng.sample(alive, min(len(alive), rng.choice((1, 1, 3)))))
        if alive and rng.random() < self.abort_rate / 10:
            reap(self.engine, rng.sample(alive, len(alive) // 2))
        if rng.random() < 0.01:
            self.engine.scheduler.reset_prefix_cache()
        self.now += rng.choice((0.001, 0.01, 0.1))

    def add(self, request: Request) -> None:
        """One that is refused must be unknown ever after."""
        self.count += 1
        if isinstance(self.engine.add(request), Admitted):
            self.told[request.request_id] = _Told(request)
        elif request.request_id in self.engine.scheduler.sequences:
            raise Violation(16, f"{request.request_id} is refused and known")

    def step(self) -> None:
        """One step, or recovery from it; then listen."""
        self.executor.rate = self.death_rate
        try:
            self.engine.step()
        except DeviceError as error:
            self.report.restarts += 1
            self.recovery.recover(error)
        self.report.steps += 1
        for output in self.engine.outputs:
            self.told[output.request_id].hear(output)
        self.engine.outputs.clear()
        self._recount()

    def settle(self) -> None:
        """No more faults: all end within a bound, and nothing is left of them."""
        self.death_rate = 0.0
        most = 64 + 4 * sum(
            told.request.sampling.max_tokens or 1 for told in self.told.values() if not told.end
        )
        for _ in range(most):
            if not self.engine.busy:
                break
            self.step()
        else:
            raise Stuck(19, f"not idle {most} steps after the last fault")
        for told in self.told.values():
            self._compare(told)
        self._nothing_is_left()

    # ── what must hold ──

    def _recount(self) -> None:
        stats, known = self.engine.stats(), self.engine.scheduler.sequences
        alive = {name for name, told in self.told.items() if told.end is None}
        if set(known) != alive:
            raise Violation(9, f"the engine knows {set(known) ^ alive} and the front end does not")
        if stats.running + stats.waiting != len(alive):
            raise Violation(
                26, f"{stats.running} run, {stats.waiting} wait, {len(alive)} are alive"
            )

    def _compare(self, told: _Told) -> None:
        name, end = told.request.request_id, told.end
        assert end is not None
        finish, stop_reason, error = end
        label = error or finish.value
        self.report.ended[label] = self.report.ended.get(label, 0) + 1
        alone = _alone(self.plan, told.request)
        whole = finish in (FinishReason.STOP, FinishReason.LENGTH)
        expected = alone.tokens if whole else alone.tokens[: len(told.tokens)]
        if told.tokens != expected:
            raise Violation(22, f"{name}: {told.tokens}, alone {alone.tokens}")
        if told.logprobs != alone.logprobs[: len(told.logprobs)]:
            raise Violation(22, f"{name} has other log-probabilities than alone")
        if (told.prompt_logprobs or alone.prompt_logprobs) != alone.prompt_logprobs:
            raise Violation(22, f"{name} has other scores of its prompt than alone")
        if whole:
            same = (told.prompt_logprobs, told.embedding) == (
                alone.prompt_logprobs,
                alone.embedding,
            )
            if not same or (finish, stop_reason) != (alone.end or end)[:2]:
                raise Violation(22, f"{name} ends as {end}, alone as {alone.end}")
        grammar = told.request.sampling.grammar
        if grammar is not None and not allows(grammar, told.tokens, _VOCABULARY):
            raise Violation(24, f"{name}: {told.tokens} breaks its grammar")
        self._check_error(told, alone, error)

    def _check_error(self, told: _Told, alone: _Told, error: str) -> None:
        """A request fails for its own tokens, or never; two may have been out untold."""
        inputs = {*told.request.prompt_ids, *alone.tokens[: len(told.tokens) + 2]}
        name = told.request.request_id
        match error:
            case "engine_poisoned_request":
                fair = _CRASH in inputs
            case "model_numerical_error":
                fair = (*told.request.prompt_ids, *told.tokens)[-1] == _NAN
            case "deadline_exceeded":
                fair = told.request.deadline_s is not None
            case _:
                fair = not error
        if not fair:
            raise Violation(27, f"{name} ends with {error!r}")

    def _nothing_is_left(self) -> None:
        """All blocks are free; one more request alone holds all lanes there are: its own."""
        engine = self.engine
        stats = engine.stats()
        if (stats.blocks_free, stats.slots_allocated) != (stats.blocks_total, 0):
            raise Violation(4, f"{stats.blocks_total - stats.blocks_free} blocks are held")
        if engine.writer.num_held:
            raise Violation(10, f"{engine.writer.num_held} prompts' scores are kept for nobody")
        greedy = SamplingParams(temperature=0.0, max_tokens=2, seed=0)
        self.add(Request(request_id=_LAST, prompt_ids=(1, 2, 3), sampling=greedy))
        while engine.busy:
            self.step()
        if len(self.executor.lanes) != 1:
            raise Violation(10, f"the device holds lanes {sorted(self.executor.lanes)} for nobody")


def _alone(plan: LaunchPlan, request: Request) -> _Told:
    """The same request on an engine of its own where nothing fails."""
    options = {**plan.config.options, "crash_token": "-1", "nan_token": "-1"}
    calm = null_plan(
        plan.device,
        options=options,
        vocab_size=_VOCABULARY,
        max_num_seqs=plan.config.max_num_seqs,
        max_batched_tokens=plan.config.max_batched_tokens,
    )
    engine, _ = null_engine(calm, lambda: 0.0, letter_grammars(_VOCABULARY))
    told = _Told(request)
    engine.add(request)
    while engine.busy:
        engine.step()
        for output in engine.outputs:
            told.hear(output)
        engine.outputs.clear()
    return told


def _draw_plan(rng: Random) -> LaunchPlan:
    """Device, memory and settings of a seed."""
    device = rng.choice(("null", "null", "null_sync", "null_narrow"))
    options = {
        "blocks": str(rng.choice((40, 70, 300))),
        "block_size": str(rng.choice((8, 16))),
        "windows": rng.choice(("", "", "0 24", "16")),
        "crash_token": str(rng.choice((-1, -1, _CRASH))),
        "nan_token": str(rng.choice((-1, _NAN))),
    }
    scheduler = SchedulerConfig(
        policy=rng.choice(("fcfs", "fcfs", "priority")),
        long_prefill_threshold=rng.choice((0, 0, 12)),
        prefix_cache=rng.random() < 0.8,
        reserve_whole_prompt=rng.random() < 0.5,
        max_overtakes=rng.choice((0, 0, 3)),
        num_drafts=rng.choice((0, 4)) if device == "null_sync" else 0,
    )
    return null_plan(
        device,
        options=options,
        scheduler=scheduler,
        vocab_size=_VOCABULARY,
        max_num_seqs=rng.choice((2, 5, 16)),
        max_batched_tokens=512 if device == "null_narrow" else rng.choice((16, 64, 256)),
    )


def _draw_request(rng: Random, name: str, plan: LaunchPlan) -> Request:
    """Prompts share beginnings; every parameter that leaves traces in rows or lanes is drawn."""
    shared = [(7 * place + rng.randrange(2)) % _CRASH for place in range(rng.choice((0, 16, 40)))]
    own = [rng.randrange(_CRASH) for _ in range(rng.randint(1, 20))] * rng.randint(1, 3)
    if rng.random() < 0.05:
        own[-1] = rng.choice((_CRASH, _NAN))
    pooling = rng.random() < 0.05
    rare = partial(_rare, rng)
    sampling = SamplingParams(
        temperature=rng.choice((0.0, 0.0, 0.7, 3.0)),
        top_k=rare(0, rng.randint(1, 20)),
        top_p=rare(1.0, 0.8),
        min_p=rare(0.0, 0.1),
        seed=rng.randrange(1 << 30),
        presence_penalty=rare(0.0, 1.5),
        frequency_penalty=rare(0.0, 0.5),
        repetition_penalty=rare(1.0, 1.3),
        logit_bias=rare(None, {rng.randrange(_CRASH): 9.0, rng.randrange(_CRASH): -100.0}),
        allowed_token_ids=rare(None, tuple(range(0, _CRASH, 3))),
        bad_words_ids=rare((), ((rng.randrange(_CRASH),),)),
        max_tokens=rng.randint(1, 40),
        min_tokens=rare(0, 1),
        stop_token_ids=rare((), tuple(range(0, _CRASH, 20))),
        logprobs=rare(None, rng.randint(0, 3)),
        prompt_logprobs=rare(None, rng.randint(0, 2)),
    )
    return Request(
        request_id=name,
        prompt_ids=(*shared, *own),
        sampling=SamplingParams(max_tokens=1, seed=0) if pooling else sampling,
        eos_ids=ENDS,
        priority=rng.randrange(3),
        cache_domain=rng.choice((b"", b"other")),
        deadline_s=rare(None, 0.5),
        pooling=pooling,
    )


def _structured(request: Request, grammars: Sequence[Grammar]) -> Request:
    """One in seven is bound to a grammar; drawn from its seed, so that all else stays the same."""
    seed = request.sampling.seed or 0
    if request.pooling or not grammars or seed % 7:
        return request
    grammar = grammars[seed // 7 % len(grammars)]
    return structs.replace(
        request, sampling=structs.replace(request.sampling, grammar=grammar, min_tokens=0)
    )


def _rare(rng: Random, usual: ValueT, odd: ValueT) -> ValueT:
    return odd if rng.random() < 0.1 else usual
