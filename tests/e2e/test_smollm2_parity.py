"""The default model's weights: tokens and log-probabilities equal those of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from inferplane.checkpoint import open_checkpoint
from inferplane.engine.engine import Engine
from inferplane.engine.start_up import start_engine
from inferplane.execution.build import create_executor
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchSettings, SchedulerConfig
from inferplane.planning import make_plan
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.tokenization.tokenizer import load_tokenizer

OUTPUT = 64
BF16_LIMIT = 0.05
"""Mean |difference of log-probability| against float32, under the same tokens."""
BEGINNINGS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics say that",
    "Water boils at a lower temperature on a mountain because",
    "Dear Sir or Madam, I am writing to",
    "To bake bread you need flour,",
    "In 1969 the first human",
)
CONTEXTS = (
    "",
    "Question and answer.\n",
    "A page of an encyclopedia, written for children of ten years. It explains one thing after "
    "another in short sentences and with many examples.\n\n",
    "# Notes\n\nWhat follows was written down during a long lecture on a rainy afternoon. " * 6,
)
PROMPTS = tuple(context + beginning for context in CONTEXTS for beginning in BEGINNINGS)
"""Four share each beginning and eight each context, so prefixes are found in the cache."""


@pytest.fixture(scope="module")
def prompts(default_model: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(open_checkpoint(default_model))
    return [tokenizer.encode(prompt) for prompt in PROMPTS]


@contextmanager
def engine(model: Path, **settings: Any) -> Iterator[Engine]:
    config = EngineConfig(
        str(model), "cpu", quantization="none", max_model_len=1024, max_num_seqs=16, **settings
    )
    plan = make_plan(LaunchSettings(config, SchedulerConfig(), plugins=("cpu",)))
    executor = create_executor(plan)
    try:
        yield start_engine(executor, plan, lambda *progress: None, b"root").engine
    finally:
        executor.close()


def run(
    engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> dict[str, list[Any]]:
    """All of them at once; the outputs of each by its number."""
    outputs: dict[str, list[Any]] = {}
    for number, prompt in enumerate(prompts):
        request = Request(request_id=str(number), prompt_ids=tuple(prompt), sampling=params)
        engine.add(request)
        outputs[request.request_id] = []
    while engine.busy:
        engine.step()
        for output in engine.outputs:
            outputs[output.request_id].append(output)
        engine.outputs.clear()
    return outputs


@pytest.fixture(scope="module")
def texts(default_model: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Each prompt with what we continue it with in float32, all in one crowd."""
    greedy = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True)
    with engine(default_model, dtype="float32", max_batched_tokens=128) as ours:
        got = run(ours, prompts, greedy)
        assert ours.stats().prefix_hit_tokens > 0
    continued = [[t for output in outputs for t in output.token_ids] for outputs in got.values()]
    return [[*prompt, *tokens] for prompt, tokens in zip(prompts, continued, strict=True)]


@pytest.fixture(scope="module")
def theirs(default_model: Path, texts: list[list[int]]) -> list[torch.Tensor]:
    """Log-probabilities [tokens - 1, vocabulary] after each token but the last, by transformers
    from the same file in float32.
    """
    transformers.logging.set_verbosity_error()
    decoder = transformers.AutoModelForCausalLM.from_pretrained(
        default_model.parent, gguf_file=default_model.name, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        return [
            torch.log_softmax(decoder(torch.tensor([text[:-1]])).logits[0], dim=-1)
            for text in texts
        ]


def test_32_prompts_in_a_crowd_continue_for_64_tokens_as_in_transformers(
    prompts: list[list[int]], texts: list[list[int]], theirs: list[torch.Tensor]
) -> None:
    """Greedy outputs are equal exactly when every token is the other's best after the same ones."""
    for prompt, text, scores in zip(prompts, texts, theirs, strict=True):
        best = scores[len(prompt) - 1 :].argmax(dim=-1).tolist()
        assert text[len(prompt) :] == best
        assert len(best) == OUTPUT


def test_bfloat16_stays_near_float32_under_the_same_tokens(
    default_model: Path, texts: list[list[int]], theirs: list[torch.Tensor]
) -> None:
    scored = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with engine(default_model, dtype="bfloat16", max_batched_tokens=256) as ours:
        got = run(ours, texts, scored)
    differences: list[float] = []
    for text, outputs, scores in zip(texts, got.values(), theirs, strict=True):
        (given,) = [o.prompt_logprobs for o in outputs if o.prompt_logprobs is not None]
        expected = scores[range(len(text) - 1), text[1:]].tolist()
        differences += [
            abs(one.values[0] - other) for one, other in zip(given[1:], expected, strict=True)
        ]
    assert len(differences) > len(PROMPTS) * OUTPUT
    assert sum(differences) / len(differences) <= BF16_LIMIT
