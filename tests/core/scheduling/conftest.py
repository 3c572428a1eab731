"""A scheduler on the bench: small numbers, plans as dictionaries, results by request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inferplane.interfaces import (
    EngineConfig,
    KVGroup,
    SchedulerLimits,
    ShapePolicy,
    StepResult,
)
from inferplane.launch import SchedulerConfig
from inferplane.media import MediaItem
from inferplane.request import FinishReason, Request
from inferplane.sampling_params import SamplingParams
from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.plan import SequenceEvent, StepPlan
from inferplane.scheduling.prefix_cache import CacheOptions
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import Sequence as Sequence_
from inferplane.scheduling.state import Features

EOS = 2
CAPABLE = SchedulerLimits(
    max_prefill_seqs=None,
    mix_prefill_decode=True,
    chunked_prefill=True,
    max_drafts=8,
    prefix_cache=True,
)


class Bench:
    """One scheduler and short ways to speak with it."""

    def __init__(
        self,
        *,
        pool: int = 1000,
        block: int = 16,
        groups: Sequence[KVGroup] = (KVGroup(),),
        budget: int = 8192,
        max_seqs: int = 16,
        max_len: int = 4096,
        caching: bool = True,
        settings: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        shapes: ShapePolicy | None = None,
        features: Features | None = None,
        cache: Mapping[str, Any] | None = None,
        in_flight_tokens: int = 0,
        prefer_low_ids: bool = False,
    ) -> None:
        config = EngineConfig(
            model="", max_model_len=max_len, max_num_seqs=max_seqs, max_batched_tokens=budget
        )
        self.blocks = BlockManager(
            pool,
            block,
            groups,
            caching=caching,
            hash_root=b"root",
            prefer_low_ids=prefer_low_ids,
            in_flight_tokens=in_flight_tokens,
            options=CacheOptions(**(cache or {})),
        )
        self.scheduler = Scheduler(
            config,
            SchedulerConfig(**(settings or {})),
            replace(CAPABLE, **(limits or {})),
            shapes or ShapePolicy(),
            self.blocks,
            features=features,
        )
        self.now = 0.0
        self.outputs: dict[str, list[int]] = {}
        self.ends: dict[str, SequenceEvent] = {}

    def add(
        self,
        name: str,
        prompt: int | Sequence[int],
        max_tokens: int | None = 16,
        *,
        same: bool = False,
        priority: int = 0,
        domain: bytes = b"",
        pooling: bool = False,
        deadline_s: float | None = None,
        eos: tuple[int, ...] = (EOS,),
        **sampling: Any,
    ) -> Sequence_:
        """Queue a request; a number of tokens makes a prompt unlike any other (or `same`)."""
        if isinstance(prompt, int):
            base = 100 if same else 1000 + 10_000 * len(self.outputs)
            prompt = range(base, base + prompt)
        request = Request(
            request_id=name,
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=max_tokens, **sampling),
            eos_ids=eos,
            priority=priority,
            cache_domain=domain,
            deadline_s=deadline_s,
            pooling=pooling,
        )
        sequence = self.scheduler.add(request, self.now)
        self.outputs[name] = []
        return sequence

    def schedule(self) -> StepPlan:
        plan = self.scheduler.schedule(self.now)
        self.record(plan.ended)
        return plan

    def update(
        self,
        plan: StepPlan,
        tokens: Mapping[str, int | Sequence[int]] | None = None,
        *,
        failed: Sequence[str] = (),
        next_drafts: Mapping[str, Sequence[int]] | None = None,
        default: int = 7,
    ) -> list[SequenceEvent]:
        """Apply a result; requests that are not named draw `default`."""
        rows, bad, drafts = [], [], []
        for entry in plan.scheduled:
            if not entry.samples:
                continue
            name = entry.sequence.request_id
            drawn = (tokens or {}).get(name, default)
            rows.append([drawn] if isinstance(drawn, int) else list(drawn))
            drafts.append(list((next_drafts or {}).get(name, ())))
            if name in failed:
                bad.append(len(rows) - 1)
        result = StepResult(
            _ragged(rows),
            failed=np.array(bad, np.int32) if bad else None,
            next_drafts=None if next_drafts is None else _ragged(drafts),
        )
        events = self.scheduler.update(plan, result)
        self.record(events)
        return events

    def finish(self, *names: str, reason: FinishReason = FinishReason.ABORT) -> list[SequenceEvent]:
        events = self.scheduler.finish(names, reason)
        self.record(events)
        return events

    def step(self, tokens: Mapping[str, int | Sequence[int]] | None = None) -> dict[str, int]:
        """Schedule and apply; what was scheduled, tokens by request."""
        plan = self.schedule()
        sizes = self.sizes(plan)
        if plan:
            self.update(plan, tokens)
        return sizes

    def run(self, most: int = 1000) -> int:
        """Step until nothing is left; the number of steps."""
        for count in range(most):
            if not self.scheduler.num_unfinished:
                return count
            assert self.step(), f"nothing scheduled with {self.scheduler.num_unfinished} left"
        raise AssertionError(f"not done after {most} steps")

    def record(self, events: Sequence[SequenceEvent]) -> None:
        for event in events:
            name = event.sequence.request_id
            self.outputs[name] += event.token_ids
            if event.finish is not None:
                assert name not in self.ends, f"{name} ended twice"
                self.ends[name] = SequenceEvent(
                    event.sequence, [], -1, event.finish, event.stop_reason, event.error
                )

    @property
    def running(self) -> list[str]:
        return [s.request_id for s in self.scheduler.running]

    @property
    def waiting(self) -> list[str]:
        return [s.request_id for s in self.scheduler.waiting]

    @staticmethod
    def sizes(plan: StepPlan) -> dict[str, int]:
        return {e.sequence.request_id: e.num_tokens for e in plan.scheduled}

    @staticmethod
    def drafts(plan: StepPlan) -> dict[str, list[int]]:
        return {e.sequence.request_id: list(e.drafts) for e in plan.scheduled}


def _ragged(rows: list[list[int]]) -> Any:
    width = max([1, *map(len, rows)])
    return np.array([r + [-1] * (width - len(r)) for r in rows], np.int32).reshape(-1, width)


class Blocks:
    """A block manager driven alone; every allocation is committed unless told otherwise."""

    def __init__(
        self,
        pool: int,
        block: int = 16,
        groups: Sequence[KVGroup] = (KVGroup(),),
        *,
        caching: bool = True,
        prefer_low_ids: bool = False,
        in_flight_tokens: int = 2048,
        **options: Any,
    ) -> None:
        self.manager = BlockManager(
            pool,
            block,
            groups,
            caching=caching,
            hash_root=b"root",
            prefer_low_ids=prefer_low_ids,
            in_flight_tokens=in_flight_tokens,
            options=CacheOptions(**options),
        )

    def sequence(
        self,
        tokens: Sequence[int],
        *,
        domain: bytes = b"",
        items: tuple[MediaItem, ...] = (),
        adapter: str = "",
    ) -> Sequence_:
        request = Request(request_id="", prompt_ids=tuple(tokens), cache_domain=domain, items=items)
        return Sequence_(
            request,
            arrival_s=0.0,
            token_ids=list(tokens),
            max_len=1 << 20,
            adapter=adapter,
        )

    def take(
        self, sequence: Sequence_, num_tokens: int | None = None, *, commit: bool = True
    ) -> list[int] | None:
        """Look up when it is new, cover its known tokens (or the next `num_tokens`)."""
        hit = None if sequence.room else self.manager.lookup(sequence)
        start = hit.tokens if hit is not None else sequence.computed
        count = len(sequence.token_ids) - start if num_tokens is None else num_tokens
        new = self.manager.allocate(sequence, count, hit)
        if new is None:
            return None
        sequence.computed += count
        if commit:
            self.manager.commit(sequence, sequence.computed)
        return new[0]

    def hashed(self, block: int) -> bool:
        return self.manager.cache.index.keys[block] is not None


@pytest.fixture
def bench() -> Callable[..., Bench]:
    return Bench


@pytest.fixture
def make_blocks() -> Callable[..., Blocks]:
    return Blocks
