"""Models that see continue a prompt with pictures as the transformers library continues it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from inferplane import LLM
from inferplane.engine.replay import Replay
from inferplane.engine.workers import WorkerExecutor
from inferplane.errors import RequestError
from inferplane.interfaces import Topology
from inferplane.testing.tiny_pictures import SEEING_KINDS

BLOCKS = 11
"""Fewer than three requests with a picture each come to need."""


@pytest.mark.parametrize("kind", SEEING_KINDS)
def test_greedy_tokens_agree_with_one_and_two_pictures_in_one_batch(
    kind: str, seeing: Callable[..., Any]
) -> None:
    model = seeing(kind)
    with model.serve() as llm:
        choices = llm.choices()
        made = model.run(llm, model.request("one", 1), model.request("two", 1, 2))
    assert any((c.kind, c.name) == ("model", "TransformersPictures") for c in choices)
    assert made["one"][0] == model.continued(1)
    assert made["two"][0] == model.continued(1, 2)
    assert made["one"][0] != model.continued(2), "the picture must matter"


@pytest.mark.parametrize("kind", ["llava", "smolvlm"])
def test_a_chunk_may_end_within_a_picture(kind: str, seeing: Callable[..., Any]) -> None:
    model = seeing(kind)
    with model.serve(max_batched_tokens=16) as llm:
        made = model.run(llm, model.request("two", 1, 2))
    assert made["two"][0] == model.continued(1, 2)


def test_the_decoder_within_may_be_of_another_family(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("llava", "qwen2")
    with model.serve() as llm:
        assert model.run(llm, model.request("one", 1))["one"][0] == model.continued(1)


def test_a_program_without_a_server_gives_pictures_with_its_prompts(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("smolvlm")
    asked = [model.request("one", 1), model.request("none", 2)]
    prompts = [list(one.prompt_ids) for one in asked]
    with model.serve() as llm:
        sampling = asked[0].sampling
        made = llm.generate(prompts, sampling, pictures=[asked[0].items, ()])
        with pytest.raises(RequestError, match="pictures of 1 prompts for 2"):
            llm.generate(prompts, sampling, pictures=[()])
    assert list(made[0].token_ids) == model.continued(1)
    assert list(made[1].token_ids) != model.continued(2)


def test_equal_text_hits_the_cache_under_an_equal_picture_alone(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("llava")
    with model.serve() as llm:
        both = model.run(llm, model.request("a", 1), model.request("b", 2))
        again = model.run(llm, model.request("c", 1))
    assert both["a"][0] == model.continued(1)
    assert both["b"][0] == model.continued(2)
    assert both["a"][0] != both["b"][0]
    assert both["b"][1] == 0
    assert again["c"][0] == both["a"][0]
    assert again["c"][1] >= 32


def test_a_picture_is_encoded_once_for_all_its_chunks_and_requests(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("llava")
    with model.serve(max_batched_tokens=16, prefix_cache=False) as llm:
        model.run(llm, model.request("a", 1), model.request("b", 1))
        assert encoded(llm) == 1
        model.run(llm, model.request("c", 2, 1))
        assert encoded(llm) == 2


def encoded(llm: LLM) -> int:
    pictures = llm._executor._steps.pictures  # type: ignore[attr-defined]  # of the core's own
    return int(pictures.encoded)


def test_what_is_computed_again_sees_its_pictures_again(
    seeing: Callable[..., Any],
) -> None:
    """After the workers died a request runs alone, then all start anew."""
    model = seeing("llava")
    started, executor = model.begun()
    engine = started.engine
    model.begin(engine, model.request("a", 1, 2), model.request("b", 2))
    while len(engine.outputs) < 4:
        engine.step()
    replay = Replay(executor, started.kv, started.launch, started.shapes)
    for sequence in engine.suspects():
        replay.run(sequence, engine.clock())
    engine.builder.release(replay.lanes)
    engine.worker_replaced()
    made = model.finish(engine)
    executor.close()
    assert made["a"][0] == model.continued(1, 2)
    assert made["b"][0] == model.continued(2)


def test_a_preempted_request_sees_its_pictures_again(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("llava")
    with model.serve() as llm:
        config, scheduler = llm.plan.config, llm.plan.scheduler
    small = replace(config, options={"kv_memory": str(BLOCKS * model.page)})
    started, executor = model.begun(
        config=small, scheduler=replace(scheduler, reserve_whole_prompt=False)
    )
    engine = started.engine
    model.begin(engine, *(model.request(str(seed), seed) for seed in (1, 2, 3, 4)))
    made = model.finish(engine)
    preemptions = engine.stats().preemptions
    executor.close()
    assert preemptions > 0
    for seed in (1, 2, 3, 4):
        assert made[str(seed)][0] == model.continued(seed)


def test_a_worker_that_dies_is_replaced_by_one_that_sees_the_same(
    seeing: Callable[..., Any],
) -> None:
    """The pictures cross to a process of their own, and to its successor."""
    model = seeing("llava")
    started, executor = model.begun(topology=Topology(placement="worker"))
    assert isinstance(executor, WorkerExecutor)
    try:
        engine = started.engine
        model.begin(engine, model.request("a", 1, 2), model.request("b", 2))
        while not engine.outputs:
            engine.step()
        executor.kill()
        executor.load(lambda *_: None)
        executor.plan_kv()
        executor.start(started.kv, lambda *_: None)
        engine.worker_replaced()
        made = model.finish(engine)
    finally:
        executor.close()
    assert made["a"][0] == model.continued(1, 2)
    assert made["b"][0] == model.continued(2)
