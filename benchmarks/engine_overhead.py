"""Host microseconds of one engine step, without a device: where the time between two steps goes.

    python benchmarks/engine_overhead.py [--steps N] [--rounds N] [--running 1,64,256]

Steady greedy decode on the null executor, whose own time is left out. A step is split into
`schedule` (the plan), `build` (its arrays), `update` (the result into request state) and `publish`
(outputs, and their encoding for the front end). Prints the fastest round, per step and per
sequence.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import msgspec

from inferplane.engine.messages import Admitted, Outputs
from inferplane.launch import SchedulerConfig
from inferplane.testing.null_engine import null_engine, null_plan, null_request

_PARTS = ("schedule", "build", "update", "publish", "rest")


@dataclass
class Clocks:
    """Nanoseconds spent in each part."""

    spent: dict[str, int] = field(default_factory=dict)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same callable, billed to a part."""

        def run(*arguments: Any) -> Any:
            begin = perf_counter_ns()
            try:
                return call(*arguments)
            finally:
                self.spent[name] = self.spent.get(name, 0) + perf_counter_ns() - begin

        return run


def measure(running: int, steps: int, device: str) -> dict[str, float]:
    """Microseconds per step of each part."""
    plan = null_plan(
        device,
        options={"blocks": str(running * (steps // 16 + 16) + 1), "check": "0"},
        scheduler=SchedulerConfig(max_waiting=10_000),
        max_num_seqs=running,
        max_batched_tokens=max(2048, running * 2),
        max_model_len=steps + 200,
        vocab_size=50_000,
    )
    engine, executor = null_engine(plan)
    for number in range(running):
        prompt = tuple(range(number, number + 64))
        answer = engine.add(null_request(f"request-{number}", prompt, max_tokens=steps + 100))
        assert isinstance(answer, Admitted), answer
    while engine.scheduler.num_waiting or engine.stats().generation_tokens < 3 * running:
        engine.step()
    engine.outputs.clear()
    clocks, encode = Clocks(), msgspec.msgpack.Encoder().encode
    engine.scheduler.schedule = clocks.timed("schedule", engine.scheduler.schedule)  # type: ignore[method-assign]
    engine.builder.build = clocks.timed("build", engine.builder.build)  # type: ignore[method-assign]
    engine.scheduler.update = clocks.timed("update", engine.scheduler.update)  # type: ignore[method-assign]
    engine.publish = clocks.timed("publish", engine.publish)  # type: ignore[method-assign]
    engine.executor.execute = clocks.timed("execute", executor.execute)  # type: ignore[method-assign]
    gc.collect()
    gc.freeze()
    begin = perf_counter_ns()
    for _ in range(steps):
        engine.step()
        if engine.outputs:
            sent = perf_counter_ns()
            encode(Outputs(tuple(engine.outputs)))
            engine.outputs.clear()
            clocks.spent["publish"] += perf_counter_ns() - sent
    total = perf_counter_ns() - begin
    gc.unfreeze()
    parts = {name: clocks.spent.get(name, 0) / steps / 1000 for name in _PARTS[:-1]}
    execute = clocks.spent["execute"] / steps / 1000
    parts["rest"] = total / steps / 1000 - sum(parts.values()) - execute
    return parts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--running", default="1,64,256")
    given = parser.parse_args()
    head = "".join(f"{name:>10}" for name in (*_PARTS, "step", "per seq"))
    print(f"{'device':10}{'running':>8}{head}   µs")
    for device in ("null_sync", "null"):
        for running in map(int, given.running.split(",")):
            rounds = [measure(running, given.steps, device) for _ in range(given.rounds)]
            chosen = min(rounds, key=lambda parts: sum(parts.values()))
            step = sum(chosen.values())
            cells = "".join(f"{chosen[name]:10.1f}" for name in _PARTS)
            print(f"{device:10}{running:8d}{cells}{step:10.1f}{step / running:10.2f}")


if __name__ == "__main__":
    main()
