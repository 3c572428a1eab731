"""Microseconds of schedule() + update() for steady decodes, without a device.

    python benchmarks/scheduler.py [--steps N] [--rounds N]

Prints the least and the median over rounds, for 1, 64, 256 and 1024 running sequences, with and
without the prefix cache, in step and overlapped by one step. Token ids are random, so blocks fill,
are hashed and published as in service.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections import deque
from time import perf_counter_ns

import numpy as np

from inferplane.interfaces import (
    EngineConfig,
    KVGroup,
    SchedulerLimits,
    ShapePolicy,
    StepResult,
)
from inferplane.launch import SchedulerConfig
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.plan import StepPlan
from inferplane.scheduling.scheduler import Scheduler

_PROMPT = 64


def make(num_seqs: int, steps: int, caching: bool, async_steps: int) -> Scheduler:
    """A scheduler with that many running sequences, none of which ends within the steps."""
    length = _PROMPT + steps + 64
    config = EngineConfig(
        model="",
        max_model_len=length,
        max_num_seqs=num_seqs,
        max_batched_tokens=num_seqs * _PROMPT,
    )
    limits = SchedulerLimits(
        max_prefill_seqs=None,
        mix_prefill_decode=True,
        chunked_prefill=True,
        prefix_cache=True,
        async_steps=async_steps,
    )
    blocks = BlockManager(
        num_seqs * (length // 16 + 2) + 1, 16, [KVGroup()], caching=caching, hash_root=b"bench"
    )
    scheduler = Scheduler(config, SchedulerConfig(), limits, ShapePolicy(), blocks)
    rng = np.random.default_rng(0)
    for i in range(num_seqs):
        prompt = tuple(rng.integers(0, 50_000, _PROMPT).tolist())
        sampling = SamplingParams(max_tokens=steps + 32, stop_token_ids=(50_001,))
        scheduler.add(Request(request_id=f"request-{i}", prompt_ids=prompt, sampling=sampling), 0.0)
    return scheduler


def measure(num_seqs: int, steps: int, caching: bool, async_steps: int) -> float:
    """Mean microseconds a step."""
    scheduler = make(num_seqs, steps, caching, async_steps)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 50_000, (64, num_seqs, 1)).astype(np.int32)
    results = [StepResult(rows) for rows in tokens]
    in_flight: deque[StepPlan] = deque()
    total = 0
    for step in range(steps):
        start = perf_counter_ns()
        in_flight.append(scheduler.schedule(0.0))
        if len(in_flight) > async_steps:
            scheduler.update(in_flight.popleft(), results[step % 64])
        if step >= 8:
            total += perf_counter_ns() - start
    assert len(scheduler.running) == num_seqs
    return total / (steps - 8) / 1000


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print("running  cache  overlap  min us  median us  ns per sequence")
    for num_seqs in (1, 64, 256, 1024):
        for caching, async_steps in ((True, 0), (True, 1), (False, 0)):
            gc.collect()
            times = [
                measure(num_seqs, asked.steps, caching, async_steps) for _ in range(asked.rounds)
            ]
            least = min(times)
            print(
                f"{num_seqs:7d}  {'on' if caching else 'off':>5}  {async_steps:7d}  {least:6.1f}  "
                f"{statistics.median(times):9.1f}  {least * 1000 / num_seqs:15.0f}"
            )


if __name__ == "__main__":
    main()
