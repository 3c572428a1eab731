"""Level 4, shapes: the policy is pure and total, and nothing compiles once warm-up is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import numpy as np
import pytest

from inferplane.interfaces import SchedulerLimits, ShapePolicy, StepShape
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.driver import Driver, Live, Work
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.conformance.subject import Subject

__all__ = ["ShapesConformance"]

LARGEST_POLICY = 100_000
"""More buckets than anybody could compile."""


class ShapesConformance(Conformance):
    """L4."""

    level: ClassVar[int] = 4

    @pytest.fixture
    def started(self, subject: Subject, inferplane_kit: KitState) -> Started:
        """A tiny model on the device."""
        return inferplane_kit.started(subject)

    @pytest.fixture
    def policy(self, started: Started) -> ShapePolicy:
        """The device's buckets."""
        return started.policy

    def test_buckets_are_few_and_distinct(self, policy: ShapePolicy) -> None:
        """Each has a name of its own, which is its entry in the compile cache."""
        buckets = policy.buckets()
        assert len(buckets) <= LARGEST_POLICY
        assert len({str(bucket) for bucket in buckets}) == len(buckets) == len(set(buckets))

    def test_every_step_has_one_bucket_that_holds_it(
        self, subject: Subject, started: Started, policy: ShapePolicy
    ) -> None:
        """`select` repeats itself, and is total where shapes are static."""
        buckets, caps = set(policy.buckets()), started.plan.caps
        for shape in _shapes(started, subject.samples(10_000)):
            if not policy.admits(shape):
                continue
            bucket = policy.select(shape)
            assert bucket == policy.select(shape)
            assert bucket is not None or not caps.static_shapes, shape
            if bucket is not None:
                assert bucket in buckets and bucket.holds(shape), (shape, bucket)

    def test_what_every_request_needs_is_admitted(
        self, started: Started, policy: ShapePolicy
    ) -> None:
        """One token of one sequence at any length: else a request could never go on."""
        size = started.kv.block_size
        for length in range(1, started.plan.config.max_model_len):
            shape = StepShape(1, 1, 1, 1, length, -(-length // size))
            assert policy.admits(shape), f"decoding at length {length} is not admitted"

    def test_nothing_compiles_while_serving(self, subject: Subject, started: Started) -> None:
        """Random steps of every size the limits allow; nothing waits for the host meanwhile."""
        driver = started.new_driver()
        before = started.executor.stats()
        with _guard(subject, started) as guard:
            for works in _random_steps(driver, subject.samples(500)):
                driver.step(works)
        after = started.executor.stats()
        assert after.compiles_after_start == before.compiles_after_start == 0
        assert after.host_syncs == before.host_syncs
        assert guard is None or guard == [], f"hidden waits for the device: {sorted(set(guard))}"

    def test_fallbacks_are_counted_not_silent(self, started: Started) -> None:
        """Where the core's reference is used for want of a kernel, the numbers say so."""
        driver = started.new_driver()
        driver.generate([5, 6, 7], 2)
        for choice in started.executor.choices():
            if choice.kind == "op" and choice.name == "reference":
                op = choice.site.split()[0]
                assert started.executor.stats().fallbacks.get(op, 0) > 0, op


def _guard(subject: Subject, started: Started) -> AbstractContextManager[list[str] | None]:
    """Notes operations that make torch wait for the device; nothing for a narrow plugin."""
    if subject.narrow or started.plan.topology.devices_per_process > 1:
        return nullcontext(None)
    from inferplane.testing.traced import sync_guard  # torch: only for devices that run it

    return sync_guard()


def _shapes(started: Started, count: int) -> Iterator[StepShape]:
    """Random steps within the scheduler's limits."""
    rng = np.random.default_rng(3)
    config, limits, size = started.plan.config, started.plan.caps.limits, started.kv.block_size
    most_seqs = min(config.max_num_seqs, limits.max_num_seqs or config.max_num_seqs)
    most_tokens = min(
        config.max_batched_tokens, limits.max_step_tokens or config.max_batched_tokens
    )
    for _ in range(count):
        decodes, prefills = _counts(rng, limits, most_seqs)
        queries = [1] * decodes
        room = most_tokens - decodes
        for _ in range(prefills):
            if room < 1:
                break
            queries.append(int(rng.integers(1, room + 1)))
            room -= queries[-1]
        contexts = [
            int(rng.integers(query, config.max_model_len + 1))
            if number < decodes or limits.chunked_prefill
            else query
            for number, query in enumerate(queries)
        ]
        blocks = sum(-(-context // size) for context in contexts)
        yield StepShape(sum(queries), len(queries), decodes, max(queries), max(contexts), blocks)


def _counts(rng: np.random.Generator, limits: SchedulerLimits, most_seqs: int) -> tuple[int, int]:
    """(decodes, prefills), at least one in all."""
    most_prefills = most_seqs if limits.max_prefill_seqs is None else limits.max_prefill_seqs
    decodes = int(rng.integers(0, most_seqs + 1))
    prefills = int(rng.integers(0, min(most_prefills, most_seqs - decodes) + 1))
    if not limits.mix_prefill_decode and decodes and prefills:
        decodes, prefills = (decodes, 0) if rng.random() < 0.5 else (0, prefills)
    return (decodes, prefills) if decodes + prefills else (1, 0)


def _random_steps(driver: Driver, count: int) -> Iterator[list[Work]]:
    """Steps in which sequences come, go on and end at random, each allowed by the limits."""
    rng = np.random.default_rng(4)
    lives: list[Live] = []
    longest = min(200, (driver.kv.num_blocks // driver.max_num_seqs - 1) * driver.kv.block_size)
    for _ in range(count):
        for live in [x for x in lives if len(x.tokens) >= longest or rng.random() < 0.05]:
            lives.remove(live)
            driver.end(live)
        while len(lives) < driver.max_num_seqs and rng.random() < 0.6:
            length = int(rng.integers(1, max(2, min(longest, driver.max_step_tokens))))
            tokens = rng.integers(3, driver.vocab_size, length)
            lives.append(driver.begin([int(t) for t in tokens]))
        works: list[Work] = []
        for place in rng.permutation(len(lives)).tolist():
            live = lives[place]
            if live.computed >= live.num_prompt:
                live.tokens.append(int(rng.integers(3, driver.vocab_size)))
            work = _next_work(driver, live, works, rng)
            if work is not None:
                works.append(work)
            elif live.computed >= live.num_prompt:
                live.tokens.pop()
        if works:
            yield works
    driver.end(*lives)


def _next_work(
    driver: Driver, live: Live, works: list[Work], rng: np.random.Generator
) -> Work | None:
    """What this sequence may still do in the step, if anything."""
    left = len(live.tokens) - live.computed
    most = min(left, driver.max_step_tokens - sum(work.count for work in works))
    if most < 1 or (most < left and not driver.caps.limits.chunked_prefill):
        return None
    count = int(rng.integers(1, most + 1)) if driver.caps.limits.chunked_prefill else left
    multiple = driver.caps.limits.chunk_multiple
    if count < left:
        count -= count % multiple
    if count < 1:
        return None
    work = Work(live, count, Draw() if count == left else None)
    ordered = sorted([*works, work], key=lambda w: w.live.computed < w.live.num_prompt)
    return work if driver.admits(ordered) else None
