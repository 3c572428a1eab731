"""Models that see continue a prompt with pictures as the transformers library continues it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from inferplane import LLM, SamplingParams
from inferplane.config import current_environment
from inferplane.engine.engine import Engine
from inferplane.engine.messages import Admitted
from inferplane.engine.placement import make_executor
from inferplane.engine.replay import Replay
from inferplane.engine.start_up import start_engine
from inferplane.media import MediaItem, media_item
from inferplane.request import Request

IMAGE = 97
COUNT = 8
TEXT = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 4,
    "initializer_range": 0.3,
}
TILED = {"vision_config": VISION, "scale_factor": 2, "pad_token_id": 0}
KINDS: Mapping[str, Mapping[str, object]] = {
    "llava": {"vision_config": {"model_type": "clip_vision_model", **VISION}},
    "smolvlm": TILED,
    "idefics3": TILED,
}
"""Kind -> what its configuration says beside its text."""
PLACES = {
    "llava": [IMAGE] * 36,
    "smolvlm": [*[IMAGE] * 9, 50, *[IMAGE] * 9],
    "idefics3": [*[IMAGE] * 9, 50, 51, *[IMAGE] * 9],
}
"""What stands for one picture; the tiles of one have other tokens between them."""
TILES = {"llava": (), "smolvlm": (2,), "idefics3": (2,)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """(folder, the library's own model) of each kind, made once."""
    made: dict[str, tuple[Path, Any]] = {}

    def write(kind: str, text: str = "llama") -> tuple[Path, Any]:
        name = f"{kind}-{text}"
        if name not in made:
            made[name] = _write(tmp_path_factory.mktemp(name), kind, text)
        return made[name]

    return write


def _write(folder: Path, kind: str, text: str) -> tuple[Path, Any]:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](
        text_config={"model_type": text, **TEXT},
        image_token_id=IMAGE,
        initializer_range=0.3,
        **KINDS[kind],
    )
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    return folder, model


def pixels(kind: str, seed: int) -> np.ndarray[Any, np.dtype[Any]]:
    shape = (1, *TILES[kind], 3, 24, 24)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def prompt(kind: str, *seeds: int) -> tuple[list[int], tuple[MediaItem, ...]]:
    """Text with a picture of each seed."""
    ids, items = [5, 6, 7], []
    for seed in seeds:
        arrays = {"pixel_values": pixels(kind, seed)}
        items.append(media_item(offset=len(ids), length=len(PLACES[kind]), arrays=arrays))
        ids += [*PLACES[kind], 8, 9]
    return [*ids, 10, 11, 12], tuple(items)


@torch.inference_mode()
def continued(model: Any, kind: str, *seeds: int) -> list[int]:
    """The library's greedy tokens, without a cache."""
    start, _ = prompt(kind, *seeds)
    ids = list(start)
    seen = np.concatenate([pixels(kind, seed) for seed in seeds], 1 if TILES[kind] else 0)
    for _ in range(COUNT):
        inputs = {"input_ids": torch.tensor([ids]), "pixel_values": torch.from_numpy(seen)}
        ids.append(int(model(**inputs, use_cache=False).logits[0, -1].argmax()))
    return ids[len(start) :]


def serve(folder: Path, **settings: Any) -> LLM:
    given = {"max_model_len": 128, "max_num_seqs": 4, "max_batched_tokens": 256, **settings}
    return LLM(str(folder), device="cpu", dtype="float32", **given)


def request(name: str, kind: str, *seeds: int) -> Request:
    ids, items = prompt(kind, *seeds)
    sampling = SamplingParams(temperature=0.0, max_tokens=COUNT, seed=0, ignore_eos=True)
    return Request(request_id=name, prompt_ids=tuple(ids), items=items, sampling=sampling)


def run(llm: LLM, *requests: Request) -> dict[str, tuple[list[int], int]]:
    """(tokens, prompt tokens found in the cache) of each request, all in one go."""
    begin(llm._engine, *requests)
    return finish(llm._engine)


def begin(engine: Engine, *requests: Request) -> None:
    for one in requests:
        assert isinstance(engine.add(one), Admitted)


def finish(engine: Engine) -> dict[str, tuple[list[int], int]]:
    """Everything that was begun, to its end."""
    made: dict[str, tuple[list[int], int]] = {}
    while engine.busy or engine.outputs:
        for output in engine.outputs:
            assert not output.error, output.error
            tokens, cached = made.get(output.request_id, ([], 0))
            tokens += output.token_ids
            made[output.request_id] = (tokens, max(cached, output.cached_tokens))
        engine.outputs.clear()
        engine.step()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_agree_with_one_and_two_pictures_in_one_batch(
    kind: str, written: Callable[..., tuple[Path, Any]]
) -> None:
    folder, reference = written(kind)
    with serve(folder) as llm:
        choices = llm.choices()
        made = run(llm, request("one", kind, 1), request("two", kind, 1, 2))
    assert any((c.kind, c.name) == ("model", "TransformersPictures") for c in choices)
    assert made["one"][0] == continued(reference, kind, 1)
    assert made["two"][0] == continued(reference, kind, 1, 2)
    assert made["one"][0] != continued(reference, kind, 2), "the picture must matter"


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_may_end_within_a_picture(
    kind: str, written: Callable[..., tuple[Path, Any]]
) -> None:
    folder, reference = written(kind)
    with serve(folder, max_batched_tokens=16) as llm:
        made = run(llm, request("two", kind, 1, 2))
    assert made["two"][0] == continued(reference, kind, 1, 2)


def test_the_decoder_within_may_be_of_another_family(
    written: Callable[..., tuple[Path, Any]],
) -> None:
    folder, reference = written("llava", "qwen2")
    with serve(folder) as llm:
        assert run(llm, request("one", "llava", 1))["one"][0] == continued(reference, "llava", 1)


def test_equal_text_hits_the_cache_under_an_equal_picture_alone(
    written: Callable[..., tuple[Path, Any]],
) -> None:
    folder, reference = written("llava")
    with serve(folder) as llm:
        both = run(llm, request("a", "llava", 1), request("b", "llava", 2))
        again = run(llm, request("c", "llava", 1))
    assert both["a"][0] == continued(reference, "llava", 1)
    assert both["b"][0] == continued(reference, "llava", 2)
    assert both["a"][0] != both["b"][0]
    assert both["b"][1] == 0
    assert again["c"][0] == both["a"][0]
    assert again["c"][1] >= 32


def test_a_picture_is_encoded_once_for_all_its_chunks_and_requests(
    written: Callable[..., tuple[Path, Any]],
) -> None:
    folder, _ = written("llava")
    with serve(folder, max_batched_tokens=16, prefix_cache=False) as llm:
        run(llm, request("a", "llava", 1), request("b", "llava", 1))
        assert encoded(llm) == 1
        run(llm, request("c", "llava", 2, 1))
        assert encoded(llm) == 2


def encoded(llm: LLM) -> int:
    pictures = llm._executor._steps.pictures  # type: ignore[attr-defined]  # of the core's own
    return int(pictures.encoded)


def test_what_is_computed_again_sees_its_pictures_again(
    written: Callable[..., tuple[Path, Any]],
) -> None:
    """After the workers died a request runs alone, then all start anew."""
    folder, reference = written("llava")
    with serve(folder) as llm:
        plan = llm.plan
    executor = make_executor(plan, current_environment())
    started = start_engine(executor, plan, lambda *_: None, b"root")
    engine = started.engine
    begin(engine, request("a", "llava", 1, 2), request("b", "llava", 2))
    while len(engine.outputs) < 4:
        engine.step()
    replay = Replay(executor, started.kv, started.launch, started.shapes)
    for sequence in engine.suspects():
        replay.run(sequence, engine.clock())
    engine.builder.release(replay.lanes)
    engine.worker_replaced()
    made = finish(engine)
    executor.close()
    assert made["a"][0] == continued(reference, "llava", 1, 2)
    assert made["b"][0] == continued(reference, "llava", 2)
