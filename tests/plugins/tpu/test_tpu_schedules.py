"""Steps that the real scheduler makes of random requests: nothing compiles once warm-up is over.

On torch_xla where it is installed, which `scripts/test-tpu` sees to, else on the emulation.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch")

from inferplane.engine.start_up import start_engine
from inferplane.execution.build import create_executor
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.subject import find_subject
from inferplane.testing.reference import ReferenceModel

pytestmark = pytest.mark.usefixtures("forget_traces")
ON_XLA = find_spec("torch_xla") is not None
DEVICE = "tpu" if ON_XLA else "tpu-emulated"
MODULE = "inferplane_tpu.hosted" if ON_XLA else "inferplane_tpu.emulation"
STEPS = 500 if ON_XLA else 60


def draw_request(rng: Random, name: str) -> Request:
    """Greedy or drawn on the host, from one token to several chunks."""
    prompt = [rng.randrange(3, 200) for _ in range(rng.choice((1, 7, 30, 90, 150)))]
    sampling = SamplingParams(
        temperature=rng.choice((0.0, 0.0, 0.8)),
        seed=rng.randrange(1 << 30),
        max_tokens=rng.randint(1, 30),
        logprobs=rng.choice((None, None, 2)),
    )
    return Request(request_id=name, prompt_ids=tuple(prompt), sampling=sampling)


def test_random_schedules_compile_nothing_after_warm_up(tiny_model, tmp_path: Path) -> None:
    rng, model = Random(11), tiny_model("llama")
    plan = find_subject(DEVICE, [MODULE]).plan(model)
    executor = create_executor(plan)
    engine = start_engine(executor, plan, lambda *_: None, b"").engine
    sealed = executor.stats()
    requests: dict[str, Request] = {}
    tokens: dict[str, list[int]] = {}
    steps = 0
    while steps < STEPS or engine.busy:
        if steps < STEPS and rng.random() < 0.4:
            request = draw_request(rng, f"r{len(requests)}")
            engine.add(request)
            requests[request.request_id] = request
        if steps < STEPS and requests and rng.random() < 0.02:
            engine.abort((rng.choice(list(requests)),))
        steps += engine.step()
        for output in engine.outputs:
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
        engine.outputs.clear()
    stats = executor.stats()
    executor.close()
    assert sealed.compiles > 0 and stats.compiles_after_start == 0
    assert stats.host_syncs == sealed.host_syncs
    assert stats.padded_tokens > stats.real_tokens > STEPS
    assert_greedy_ones_are_the_models(model, requests, tokens)


def assert_greedy_ones_are_the_models(
    model: Path, requests: dict[str, Request], tokens: dict[str, list[int]]
) -> None:
    """What company and chunks a request had does not show in its answer."""
    reference = ReferenceModel(model)
    greedy = [name for name, one in requests.items() if not one.sampling.temperature]
    short = [name for name in greedy if len(requests[name].prompt_ids) <= 30 and name in tokens]
    assert len(short) > 3
    for name in short[:6]:
        want = reference.greedy(list(requests[name].prompt_ids), len(tokens[name]))
        assert tokens[name] == want, name
