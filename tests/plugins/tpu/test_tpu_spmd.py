"""One model over several XLA devices of one process: annotated, divided, the same tokens.

A client has its number of devices from its environment, before it is made, and a process that
divides programs divides all of them: `scripts/test-tpu spmd` makes such a process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from inferplane.engine.start_up import start_engine
from inferplane.execution.build import create_executor
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.subject import find_subject
from inferplane.testing.reference import ReferenceModel
from inferplane.testing.tiny import write_tiny_model

CHIPS = int(os.environ.get("CPU_NUM_DEVICES", "1"))
pytestmark = pytest.mark.skipif(
    CHIPS == 1 or find_spec("torch_xla") is None,
    reason="needs torch_xla with a client of several devices: scripts/test-tpu spmd",
)

# heads that divide over the devices: the tiny models of the kit have two KV heads
SHAPE = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 96}


@pytest.fixture(scope="module", params=["llama", "qwen3", "mixtral"])
def served(request, tmp_path_factory) -> Iterator[tuple[Path, object, object]]:
    model = write_tiny_model(tmp_path_factory.mktemp(request.param), request.param, overrides=SHAPE)
    plan = find_subject("tpu", ["inferplane_tpu.hosted"]).plan(model, tensor_parallel=CHIPS)
    executor = create_executor(plan)
    engine = start_engine(executor, plan, lambda *_: None, b"").engine
    yield model, executor, engine
    executor.close()


def ask(engine, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy continuations of all prompts, served together."""
    sampling = SamplingParams(temperature=0.0, max_tokens=count)
    tokens: dict[str, list[int]] = {str(place): [] for place in range(len(prompts))}
    for name, prompt in zip(tokens, prompts, strict=True):
        engine.add(Request(request_id=name, prompt_ids=tuple(prompt), sampling=sampling))
    while engine.busy:
        engine.step()
        for output in engine.outputs:
            tokens[output.request_id].extend(output.token_ids)
        engine.outputs.clear()
    return list(tokens.values())


def test_a_divided_model_answers_as_one_device_does(served) -> None:
    model, executor, engine = served
    rng = Random(5)
    prompts = [[rng.randrange(3, 200) for _ in range(n)] for n in (1, 9, 30, 70)]
    told = ask(engine, prompts, 12)
    reference = ReferenceModel(model)
    for prompt, tokens in zip(prompts, told, strict=True):
        assert tokens == reference.greedy(prompt, len(tokens))
    stats = executor.stats()
    assert stats.compiles > 0 and stats.compiles_after_start == 0 and stats.host_syncs == 0


def test_kv_and_layers_lie_divided_on_the_devices_after_serving(served) -> None:
    from inferplane_tpu import _sdk

    _, executor, engine = served
    ask(engine, [[7, 8, 9]], 3)
    pages = executor._store.layer(executor._loaded.sites[0].name).content
    assert _sdk.sharding(pages).startswith(f"{{devices=[1,1,{CHIPS},1]")
    layer = executor._loaded.model._layers[0]
    columns, rows = layer.attention.qkv.weight, layer.attention.output.weight
    assert _sdk.sharding(columns).startswith(f"{{devices=[{CHIPS},1]")
    assert _sdk.sharding(rows).startswith(f"{{devices=[1,{CHIPS}]")
    assert _sdk.sharding(layer.norm.weight) == "{replicated}"
