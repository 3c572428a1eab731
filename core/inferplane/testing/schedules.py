"""Steps that the real scheduler makes of random requests, on any device's executor.

For devices of fixed shapes: after warm-up nothing may compile, whatever comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from inferplane.engine.start_up import start_engine
from inferplane.execution.build import create_executor
from inferplane.interfaces import ExecutorStats
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.subject import find_subject
from inferplane.testing.reference import ReferenceModel

__all__ = ["Schedules", "run_schedules"]

_LENGTHS = (1, 7, 30, 90, 150)


@dataclass(slots=True)
class Schedules:
    """What was asked for, what came, and the executor's counters before and after."""

    requests: dict[str, Request] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    sealed: ExecutorStats = field(default_factory=ExecutorStats)
    served: ExecutorStats = field(default_factory=ExecutorStats)
    cached_tokens: int = 0
    """Of prompts, taken from the prefix cache."""

    def check(self, model: Path) -> None:
        """Nothing compiled or waited late; company and chunks show in no greedy answer."""
        assert self.sealed.compiles + self.sealed.cache_hits > 0
        assert self.served.compiles_after_start == 0
        assert self.served.host_syncs == self.sealed.host_syncs
        assert self.served.padded_tokens > self.served.real_tokens
        reference = ReferenceModel(model)
        greedy = [name for name, one in self.requests.items() if not one.sampling.temperature]
        short = [name for name in greedy if name in self.tokens and self._is_short(name)]
        assert len(short) > 3
        for name in short[:6]:
            prompt, got = list(self.requests[name].prompt_ids), self.tokens[name]
            assert got == reference.greedy(prompt, len(got)), name

    def _is_short(self, name: str) -> bool:
        """So that a check of it is cheap."""
        return len(self.requests[name].prompt_ids) <= 31


def run_schedules(
    device: str,
    plugins: Sequence[str],
    model: Path,
    steps: int,
    *,
    alike: bool = False,
    **settings: object,
) -> Schedules:
    """`steps` steps during which requests come at random and some are aborted, then the rest.

    With `alike` prompts begin alike, so that a prefix cache has something to find.
    """
    rng, run = Random(11), Schedules()
    plan = find_subject(device, list(plugins)).plan(model, **settings)
    executor = create_executor(plan)
    engine = start_engine(executor, plan, lambda *_: None, b"").engine
    run.sealed = executor.stats()
    done = 0
    while done < steps or engine.busy:
        if done < steps and rng.random() < 0.4:
            request = _draw_request(rng, f"r{len(run.requests)}", alike)
            engine.add(request)
            run.requests[request.request_id] = request
        if done < steps and run.requests and rng.random() < 0.02:
            engine.abort((rng.choice(list(run.requests)),))
        done += engine.step()
        for output in engine.outputs:
            run.tokens.setdefault(output.request_id, []).extend(output.token_ids)
        engine.outputs.clear()
    run.served = executor.stats()
    run.cached_tokens = engine.scheduler.counters.cached_tokens
    executor.close()
    return run


def _draw_request(rng: Random, name: str, alike: bool) -> Request:
    """Greedy or drawn, on the device or the host; from one token to several chunks."""
    length = rng.choice(_LENGTHS)
    prompt = [5 + place % 150 if alike else rng.randrange(3, 200) for place in range(length)]
    sampling = SamplingParams(
        temperature=rng.choice((0.0, 0.0, 0.8)),
        seed=rng.randrange(1 << 30),
        max_tokens=rng.randint(1, 30),
        logprobs=rng.choice((None, None, 2)),
    )
    prompt.append(rng.randrange(3, 200))
    return Request(request_id=name, prompt_ids=tuple(prompt), sampling=sampling)
