"""Models that hear continue a transcript as the transformers library continues it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inferplane import LLM, SamplingParams
from inferplane.config import current_environment
from inferplane.engine.messages import Admitted
from inferplane.engine.placement import make_executor
from inferplane.engine.start_up import start_engine
from inferplane.errors import ConfigError
from inferplane.execution.build import create_executor
from inferplane.interfaces import Topology
from inferplane.request import Request
from inferplane.testing.null_engine import null_plan
from inferplane.testing.tiny_speech import speech_features, speech_prompt, write_hearing_model

COUNT = 12
TEXT = (257, 258, 262, 266)
LONGER = (264, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, *TEXT)
GROWING = (*LONGER[:10], *TEXT)
"""Its answer comes to need one more block than its prompt."""
PAGE = 2 * 2 * 4 * 16 * 16 * 4
"""Bytes of a KV block: layers x (K, V) x heads x size x tokens x float32."""


class Hearing:
    """A tiny Whisper and what the library makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference: Any = write_hearing_model(folder)

    @torch.inference_mode()
    def continued(self, seed: int, text: tuple[int, ...] = TEXT) -> list[int]:
        ids = list(text)
        heard = torch.from_numpy(speech_features(seed))[None]
        for _ in range(COUNT):
            made = self.reference(
                input_features=heard, decoder_input_ids=torch.tensor([ids]), use_cache=False
            )
            ids.append(int(made.logits[0, -1].argmax()))
        return ids[len(text) :]

    def serve(self, **settings: Any) -> LLM:
        given = {"max_num_seqs": 8, "max_batched_tokens": 512, **settings}
        return LLM(str(self.folder), device="cpu", dtype="float32", **given)


def asked(name: str, seed: int, text: tuple[int, ...] = TEXT) -> Request:
    ids, items = speech_prompt(seed, text)
    sampling = SamplingParams(temperature=0.0, max_tokens=COUNT, seed=0, ignore_eos=True)
    return Request(request_id=name, prompt_ids=tuple(ids), items=items, sampling=sampling)


def run(engine: Any, *requests: Request) -> dict[str, tuple[list[int], int]]:
    """(tokens, prompt tokens found in the cache) of each."""
    for one in requests:
        assert isinstance(engine.add(one), Admitted)
    made: dict[str, tuple[list[int], int]] = {one.request_id: ([], 0) for one in requests}
    while engine.busy or engine.outputs:
        for output in engine.outputs:
            assert not output.error, output.error
            tokens, cached = made[output.request_id]
            tokens += output.token_ids
            made[output.request_id] = (tokens, max(cached, output.cached_tokens))
        engine.outputs.clear()
        engine.step()
    return made


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Hearing:
    return Hearing(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def served(hearing: Hearing) -> Iterator[LLM]:
    with hearing.serve() as llm:
        yield llm


def test_the_task_is_chosen_from_the_files(served: LLM) -> None:
    assert served.plan.tasks == ("transcribe",)
    assert served.plan.config.max_model_len == 128 + 64


def test_greedy_tokens_agree_alone_and_many_at_once(hearing: Hearing, served: LLM) -> None:
    alone = run(served._engine, asked("one", 1))
    assert alone["one"][0] == hearing.continued(1)
    assert alone["one"][0] != hearing.continued(2), "the audio must matter"
    many = [asked(str(n), n, LONGER if n % 2 else TEXT) for n in range(2, 10)]
    made = run(served._engine, *many)
    for n in range(2, 10):
        assert made[str(n)][0] == hearing.continued(n, LONGER if n % 2 else TEXT)


def test_equal_audio_hits_the_cache_and_other_audio_does_not(hearing: Hearing, served: LLM) -> None:
    first = run(served._engine, asked("a", 20), asked("b", 21))
    again = run(served._engine, asked("c", 20, LONGER))
    assert first["b"][1] == 0
    assert again["c"][1] >= 112
    assert again["c"][0] == hearing.continued(20, LONGER)


@pytest.mark.parametrize("chunk", [16, 40])
def test_a_chunk_may_end_within_the_audio_and_within_the_text(hearing: Hearing, chunk: int) -> None:
    with hearing.serve(max_batched_tokens=chunk, prefix_cache=False) as llm:
        made = run(llm._engine, asked("a", 1, LONGER), asked("b", 2))
    assert made["a"][0] == hearing.continued(1, LONGER)
    assert made["b"][0] == hearing.continued(2)


def test_a_preempted_request_hears_its_audio_again(hearing: Hearing, served: LLM) -> None:
    small = replace(served.plan.config, options={"kv_memory": str(20 * PAGE)})
    scheduler = replace(served.plan.scheduler, reserve_whole_prompt=False)
    plan = replace(served.plan, config=small, scheduler=scheduler)
    executor = make_executor(plan, current_environment())
    started = start_engine(executor, plan, lambda *_: None, b"root")
    made = run(started.engine, *(asked(str(seed), seed, GROWING) for seed in (1, 2, 3)))
    preemptions = started.engine.stats().preemptions
    executor.close()
    assert preemptions > 0
    for seed in (1, 2, 3):
        assert made[str(seed)][0] == hearing.continued(seed, GROWING)


@pytest.mark.parametrize("backend", ["reference", "paged"])
def test_other_attention_backends_agree(hearing: Hearing, backend: str) -> None:
    with hearing.serve(attention=backend, max_batched_tokens=48) as llm:
        made = run(llm._engine, asked("a", 1), asked("b", 2, LONGER))
    assert made["a"][0] == hearing.continued(1)
    assert made["b"][0] == hearing.continued(2, LONGER)


def test_blocks_that_would_hold_audio_and_text_are_refused(hearing: Hearing) -> None:
    with pytest.raises(ConfigError, match="block_size 48: a model that hears"):
        hearing.serve(block_size=48)


def test_other_tasks_are_refused_with_the_one_there_is(hearing: Hearing) -> None:
    with pytest.raises(ConfigError, match="can transcribe"):
        hearing.serve(task="generate")


def test_an_executor_that_does_not_hear_is_refused(served: LLM) -> None:
    plan = replace(null_plan(), image_token=3, speech=served.plan.speech)
    with pytest.raises(ConfigError, match="takes no recordings"):
        create_executor(plan)


def test_a_worker_process_hears_the_same(hearing: Hearing, served: LLM) -> None:
    plan = replace(served.plan, topology=Topology(placement="worker"))
    executor = make_executor(plan, current_environment())
    started = start_engine(executor, plan, lambda *_: None, b"root")
    made = run(started.engine, asked("a", 1))
    executor.close()
    assert made["a"][0] == hearing.continued(1)
