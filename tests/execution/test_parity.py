"""Greedy tokens equal those of transformers in float32, through the real engine and the cpu plugin.

Tiny models of every architecture run alone and in a crowd: sixteen requests with chunked prefill,
prefix hits and preemption. The real model runs where its file is at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from inferplane.checkpoint import open_checkpoint
from inferplane.engine.engine import Engine
from inferplane.engine.start_up import start_engine
from inferplane.execution.build import create_executor
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchSettings, SchedulerConfig
from inferplane.model_config import read_model_config
from inferplane.planning import make_plan
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.tiny import write_tiny_model

KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
ATTENTION = pytest.mark.parametrize("attention", ["auto", "paged", "reference"])
"""auto: the compiled step where the kernels are built; paged: op by op in torch."""
OUTPUT = 32
SHARED = list(range(40, 140))
"""A prefix of several blocks, longer than every window."""
CROWD = [
    [*SHARED[: 96 if i % 2 else 10 + 5 * i], *range(150 + i, 150 + i + 3 + i)] for i in range(16)
]


BLOCKS = dict.fromkeys(KINDS, 32) | {"mistral": 24, "gemma3": 40}
"""Of 16 tokens: room for about a third of CROWD. Windows give blocks back, two groups need more."""


def page_bytes(model: Path) -> int:
    """Of 16 tokens, in float32."""
    config = read_model_config(open_checkpoint(model))
    layers = max(Counter(config.layer_windows).values())
    return layers * 2 * 16 * config.num_kv_heads * config.head_dim * 4


@contextmanager
def engine(model: Path, **settings: Any) -> Iterator[Engine]:
    """The real engine in this process; `scheduler` and `options` as in the settings."""
    scheduler = settings.pop("scheduler", SchedulerConfig())
    options = {"threads": "1", **settings.pop("options", {})}
    config = EngineConfig(str(model), "cpu", quantization="none", options=options, **settings)
    launch = LaunchSettings(config, scheduler, plugins=("cpu",))
    plan = make_plan(launch)
    executor = create_executor(plan)
    try:
        yield start_engine(executor, plan, lambda *progress: None, b"root").engine
    finally:
        executor.close()


def greedy(count: int, **changes: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, seed=0, **changes)


def run(
    engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> list[list[int]]:
    """All of them at once; the tokens of each."""
    tokens: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        request = Request(request_id=f"r{number}", prompt_ids=tuple(prompt), sampling=params)
        engine.add(request)
        tokens[request.request_id] = []
    while engine.busy:
        engine.step()
        for output in engine.outputs:
            tokens[output.request_id] += output.token_ids
        engine.outputs.clear()
    return list(tokens.values())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    written: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in written:
            written[kind] = write_tiny_model(tmp_path_factory.mktemp(kind), kind, seed=3)
        return written[kind]

    return folder


@pytest.fixture(scope="module")
def theirs(model: Callable[[str], Path]) -> Callable[[str], list[list[int]]]:
    """What `transformers` generates after each prompt of CROWD."""
    transformers.logging.set_verbosity_error()
    known: dict[str, list[list[int]]] = {}

    def generate(kind: str) -> list[list[int]]:
        if kind not in known:
            decoder = AutoModelForCausalLM.from_pretrained(model(kind), dtype=torch.float32).eval()
            decoder.generation_config.eos_token_id = None
            known[kind] = [_generate(decoder, prompt) for prompt in CROWD]
        return known[kind]

    return generate


def _generate(decoder: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = decoder.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=OUTPUT,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens


@ATTENTION
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_alone_continues_as_in_transformers(
    kind: str, attention: str, model: Callable[[str], Path], theirs: Callable[[str], Any]
) -> None:
    with engine(
        model(kind), dtype="float32", attention=attention, max_model_len=256, max_num_seqs=4
    ) as alone:
        for prompt, expected in list(zip(CROWD, theirs(kind), strict=True))[::5]:
            assert run(alone, [prompt], greedy(OUTPUT)) == [expected]


@ATTENTION
@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_with_chunks_hits_and_preemption_continues_as_each_alone(
    kind: str, attention: str, model: Callable[[str], Path], theirs: Callable[[str], Any]
) -> None:
    """The pool holds a few of the sixteen, and a step less than the longest prompt."""
    with engine(
        model(kind),
        dtype="float32",
        attention=attention,
        max_model_len=192,
        max_num_seqs=16,
        max_batched_tokens=64,
        options={"kv_memory": str(BLOCKS[kind] * page_bytes(model(kind)))},
        scheduler=SchedulerConfig(reserve_whole_prompt=False),
    ) as crowd:
        free = crowd.blocks.num_free
        assert run(crowd, CROWD, greedy(OUTPUT)) == theirs(kind)
        stats = crowd.stats()
        assert stats.preemptions > 0
        assert stats.prefix_hit_tokens > 0
        assert stats.steps > OUTPUT + sum(map(len, CROWD)) // 64
        assert crowd.blocks.num_free == free
