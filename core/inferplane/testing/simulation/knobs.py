"""What differs from seed to seed: sizes, limits of the device, settings and fault rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from inferplane.interfaces import EngineConfig, KVGroup, SchedulerLimits, ShapePolicy, StepShape
from inferplane.launch import SchedulerConfig
from inferplane.scheduling.prefix_cache import CacheOptions
from inferplane.scheduling.state import Features

__all__ = ["FaultRates", "Knobs", "SmallShapes", "draw_knobs"]


@dataclass(frozen=True, slots=True)
class FaultRates:
    """Chance of each per step."""

    abort: float = 0.0
    front_end_stop: float = 0.0
    host_failure: float = 0.0
    failed_row: float = 0.0
    silent_nan: float = 0.0
    failed_allocation: float = 0.0
    worker_death: float = 0.0
    double_answer: float = 0.0
    hold: float = 0.0
    pause: float = 0.0
    reset: float = 0.0
    clock_jump: float = 0.0


@dataclass(frozen=True, slots=True)
class SmallShapes(ShapePolicy):
    """A device that runs small steps only; a lone sequence with a small chunk always passes."""

    max_seqs: int
    max_query: int

    def admits(self, shape: StepShape) -> bool:
        """Whether the step stays below both sizes."""
        return shape.num_seqs <= self.max_seqs and shape.max_query <= self.max_query


@dataclass(frozen=True, slots=True)
class Knobs:
    """One seed's world."""

    num_blocks: int = 64
    block_size: int = 16
    windows: tuple[int | None, ...] = (None,)
    """One KV group each."""
    config: EngineConfig = EngineConfig(model="", max_num_seqs=8, max_batched_tokens=64)
    settings: SchedulerConfig = SchedulerConfig()
    limits: SchedulerLimits = SchedulerLimits()
    cache: CacheOptions = CacheOptions(paranoid=True)
    features: Features = Features()
    shapes: ShapePolicy = ShapePolicy()
    weak_digest: bool = False
    """Digests of 8 bits, so that collisions are daily bread."""
    arrival: float = 0.5
    """Requests per step."""
    mean_prompt: int = 30
    mean_output: int = 20
    tenants: int = 1
    documents: int = 3
    """Shared beginnings of prompts; 0 = none."""
    copies: int = 1
    """Most requests that arrive together with one prompt."""
    vocabulary: int = 20
    """Small ones repeat themselves, which n-gram drafts like."""
    stop_every: int = 37
    """Tokens until an end token or stop id is drawn, in the mean."""
    acceptance: float = 0.5
    """Chance that a draft made on the device is right."""
    device_drafts: bool = False
    step_seconds: float = 0.01
    deadlines: bool = False
    faults: FaultRates = FaultRates()

    def groups(self) -> tuple[KVGroup, ...]:
        """The KV groups."""
        return tuple(KVGroup(window=window) for window in self.windows)


def _log_uniform(rng: Random, low: int, high: int) -> int:
    """An integer whose magnitude is uniform."""
    return int(low * (high / low) ** rng.random() + 0.5)


def draw_knobs(seed: int) -> Knobs:
    """The world of a seed; in a stampede many ask for the same thing at once."""
    rng = Random(seed)
    stampede = rng.random() < 0.25
    block_size = _log_uniform(rng, 1, 16) if rng.random() < 0.8 else _log_uniform(rng, 16, 64)
    num_blocks = _log_uniform(rng, 2, 128) if rng.random() < 0.95 else _log_uniform(rng, 128, 4096)
    max_seqs = _log_uniform(rng, 1, 48)
    if stampede:
        block_size, num_blocks, max_seqs = rng.randint(1, 3), rng.randint(60, 250), 8
    windows = _draw_windows(rng)
    num_blocks = max(num_blocks, len(windows) + 1)
    capacity = (num_blocks - 1) // len(windows) * block_size
    pressure = rng.choice((0.5, 1.5, 4.0))
    mean_total = max(3, min(300, int(pressure * capacity / max_seqs), capacity))
    mean_prompt = max(1, int(mean_total * rng.choice((0.2, 0.4, 0.8))))
    mean_output = max(1, mean_total - mean_prompt)
    max_len = max(2, min(4096, capacity, int(mean_total * rng.choice((1.5, 4.0)))))
    chunked = rng.random() < 0.8
    budget = _log_uniform(rng, 1, 256)
    if stampede:
        budget = max(2, mean_prompt // rng.randint(1, 4))
    multiple = rng.choice((1, 1, 1, block_size, 4))
    if chunked:
        budget = max(budget, multiple)
    else:
        budget, multiple = max(budget, max_len), 1
    caching = stampede or rng.random() < 0.85
    sharing = stampede or rng.random() < 0.6
    knobs = Knobs(
        num_blocks=num_blocks,
        block_size=block_size,
        windows=windows,
        config=EngineConfig(
            model="", max_model_len=max_len, max_num_seqs=max_seqs, max_batched_tokens=budget
        ),
        settings=_draw_settings(rng, chunked, max_seqs),
        limits=_draw_limits(rng, chunked, multiple, caching),
        features=Features(pad_first_decode=rng.random() < 0.7, outside_readers=rng.random() < 0.15),
        weak_digest=rng.random() < 0.1,
        arrival=min(2.0, rng.choice((0.3, 1.0, 3.0)) * max_seqs / mean_output),
        mean_prompt=mean_prompt,
        mean_output=mean_output,
        tenants=1 if sharing else rng.randint(1, 5),
        documents=rng.choice((1, 2)) if sharing else rng.choice((0, 3, 6)),
        copies=4 if sharing else 1,
        vocabulary=rng.choice((4, 12, 60)),
        stop_every=rng.choice((37, 300, 2000)),
        acceptance=rng.choice((0.0, 0.3, 0.7, 1.0)),
        device_drafts=rng.random() < 0.5,
        deadlines=rng.random() < 0.3,
        faults=_draw_faults(rng),
    )
    knobs = _finish(rng, knobs, caching)
    return _in_a_stampede(knobs) if stampede else knobs


def _in_a_stampede(knobs: Knobs) -> Knobs:
    """Let sequences prefill side by side and use each other's blocks at once."""
    return replace(
        knobs,
        settings=replace(knobs.settings, adopt_pending=True, prefill_interval=1),
        limits=replace(knobs.limits, max_prefill_seqs=None, mix_prefill_decode=True),
        cache=replace(knobs.cache, adopt_pending=True),
    )


def _finish(rng: Random, knobs: Knobs, caching: bool) -> Knobs:
    """Settings that depend on others."""
    single = len(knobs.windows) == 1 and knobs.windows[0] is None
    parts = rng.choice((2, 4))
    unit = 0 if knobs.block_size % parts else knobs.block_size // parts
    cache = CacheOptions(
        adopt_pending=rng.random() < 0.8,
        adopt_in_step=rng.random() < 0.3,
        event_limit=64 if rng.random() < 0.2 else 0,
        match_unit=unit if caching and single and rng.random() < 0.5 else 0,
        paranoid=knobs.weak_digest or rng.random() < 0.5,
    )
    if knobs.weak_digest:
        cache = replace(cache, match_unit=0)
    shapes: ShapePolicy = ShapePolicy()
    if rng.random() < 0.2:
        least = max(knobs.limits.chunk_multiple, 1 + knobs.limits.max_drafts)
        if not knobs.limits.chunked_prefill:
            least = knobs.config.max_model_len
        shapes = SmallShapes(rng.randint(1, 8), least + rng.randint(0, 64))
    return replace(knobs, cache=cache, shapes=shapes)


def _draw_windows(rng: Random) -> tuple[int | None, ...]:
    kind = rng.random()
    if kind < 0.6:
        return (None,)
    if kind < 0.75:
        return (rng.randint(1, 40),)
    if kind < 0.9:
        return (None, rng.randint(1, 40))
    return (rng.randint(1, 20), None, rng.randint(1, 60))


def _draw_settings(rng: Random, chunked: bool, max_seqs: int) -> SchedulerConfig:
    return SchedulerConfig(
        policy=rng.choice(("fcfs", "priority")),
        max_active_seqs=rng.choice((None, None, max(1, max_seqs // 2))),
        long_prefill_threshold=rng.choice((0, 0, 5, 40)),
        adaptive_prefill=rng.random() < 0.3,
        chunked_prefill=chunked or rng.random() < 0.5,
        reserve_whole_prompt=rng.random() < 0.7,
        watermark=rng.choice((0.0, 0.0, 0.1, 0.5)),
        prefill_interval=rng.choice((1, 1, 2, 5)),
        max_waiting=rng.choice((0, 4, 50)),
        max_waiting_tokens=rng.choice((0, 0, 400)),
        max_overtakes=rng.choice((0, 0, 3)),
        queue_timeout_s=rng.choice((60.0, 2.0)),
        adopt_pending=rng.random() < 0.8,
        num_drafts=rng.choice((0, 0, 0, 1, 3, 8)),
    )


def _draw_limits(rng: Random, chunked: bool, multiple: int, caching: bool) -> SchedulerLimits:
    return SchedulerLimits(
        max_prefill_seqs=rng.choice((None, None, 1, 2)),
        mix_prefill_decode=rng.random() < 0.75,
        chunked_prefill=chunked,
        chunk_multiple=multiple,
        max_drafts=rng.choice((8, 2)),
        async_steps=rng.choice((0, 1, 1, 2)),
        preemption="none" if rng.random() < 0.2 else "recompute",
        prefix_cache=caching,
        prefer_low_block_ids=rng.random() < 0.2,
    )


def _draw_faults(rng: Random) -> FaultRates:
    def rate(most: float) -> float:
        return rng.choice((0.0, 0.0, most * 0.1, most))

    return FaultRates(
        abort=rate(0.1),
        front_end_stop=rate(0.05),
        host_failure=rate(0.02),
        failed_row=rate(0.1),
        silent_nan=rate(0.1),
        failed_allocation=rate(0.1),
        worker_death=rate(0.005),
        double_answer=rate(0.02),
        hold=rate(0.1),
        pause=rate(0.01),
        reset=rate(0.02),
        clock_jump=rate(0.002),
    )
