"""A tiny model on the emulated chip: programs made ahead of time, the tokens of the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inferplane.testing.conformance.deck import Deck
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.draws import agreement
from inferplane.testing.conformance.driver import Work
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.reference import ReferenceModel


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("emulated")
    kit = KitState(folder, ["inferplane_neuron.emulation"], quick=True)
    yield kit.started(kit.subject("neuron-emulated"), "llama", max_num_seqs=2, max_model_len=32)
    kit.close()


def test_each_bucket_has_one_program_and_serving_makes_none(started: Started) -> None:
    stats, buckets = started.executor.stats(), started.policy.buckets()
    assert stats.compiles + stats.cache_hits == len(buckets) == 3
    driver, model = started.new_driver(), ReferenceModel(started.model)
    for prompt in ([7], list(range(3, 27))):
        assert driver.generate(prompt, 6) == model.greedy(prompt, 6)
    assert started.executor.stats().compiles_after_start == 0


def test_company_and_a_token_drawn_on_the_host_change_no_sequence(started: Started) -> None:
    driver, model = started.new_driver(), ReferenceModel(started.model)
    prompts = [[9, 8, 7], list(range(20, 45))]
    want = [model.greedy(prompt, 4) for prompt in prompts]
    lives = [driver.begin(prompt) for prompt in prompts]
    out = [[driver.prefill(live, Draw()).token_ids[0]] for live in lives]
    for _ in range(3):
        for live, drawn in zip(lives, out, strict=True):
            live.tokens.append(drawn[-1])
        host = Work(lives[1], 1, Draw(), host=True)
        rows = driver.step([Work(lives[0], 1, Draw()), host])
        assert rows[1].logits is not None
        out[0].append(rows[0].token_ids[0])
        out[1].append(int(rows[1].logits.argmax()))
    driver.end(*lives)
    assert out == want


def test_a_prompt_in_chunks_answers_as_in_one_piece(started: Started) -> None:
    driver, prompt = started.new_driver(), list(range(3, 27))
    live = driver.begin(prompt)
    row = driver.prefill(live, Draw(), chunk=7)
    assert row.token_ids[0] == ReferenceModel(started.model).greedy(prompt, 1)[0]
    driver.end(live)


def test_prompts_that_begin_alike_share_blocks_and_change_no_token(
    started: Started, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kit = KitState(tmp_path_factory.mktemp("blocks"), ["inferplane_neuron.emulation"], quick=True)
    limits = {"max_num_seqs": 2, "max_model_len": 64, "block_size": 16}
    blocks = kit.started(kit.subject("neuron-emulated"), "llama", **limits)
    assert blocks.kv.block_size == 16 and blocks.kv.num_blocks == 2 * 4 + 1
    driver, model = blocks.new_driver(), ReferenceModel(started.model)
    prompt = list(range(3, 43))
    first = driver.begin(prompt)
    driver.prefill(first, Draw())
    second = driver.begin([*prompt[:32], 90, 91])
    second.tables, second.computed = [[*first.tables[0][:2]]], 32
    row = driver.prefill(second, Draw())
    assert row.token_ids[0] == model.greedy([*prompt[:32], 90, 91], 1)[0]
    first.tokens.append(model.greedy(prompt, 1)[0])
    assert driver.step([Work(first, 1, Draw())])[0].token_ids[0] == model.greedy(prompt, 2)[1]
    kit.close()


def test_a_draw_on_the_device_is_the_host_sampler_s(started: Started) -> None:
    driver = started.new_driver()
    deck = Deck(started, [[9, 8, 7], list(range(20, 30))])
    for seed in range(40):
        how = Draw(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02, seed=seed)
        for place, row in enumerate(deck.step([how, how])):
            want = deck.sampling(place, how)
            assert agreement(deck.logits_RV[place : place + 1], want, row.token_ids[0])
    driver.end(*deck.lives)
