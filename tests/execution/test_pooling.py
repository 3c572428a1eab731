"""Which hidden state stands for a sequence: what the files say, and that vector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.errors import ModelError
from inferplane.execution.pooling import read_pooling
from inferplane.interfaces import Array
from inferplane.testing.conformance.driver import Work
from inferplane.testing.tiny import write_tiny_model

PROMPT = list(range(20, 37))


def say(folder: Path, content: str) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(content)


@pytest.mark.parametrize(
    "key, pooling",
    [
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_the_checkpoint_decides(key: str, pooling: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    say(model, json.dumps({"word_embedding_dimension": 64, key: True}))
    assert read_pooling(open_checkpoint(model)) == pooling


def test_silence_means_the_last_token(tmp_path: Path) -> None:
    assert read_pooling(open_checkpoint(write_tiny_model(tmp_path / "model"))) == "last"


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    say(model, "{")
    with pytest.raises(ModelError):
        read_pooling(open_checkpoint(model))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tiny model, once for each pooling."""
    folders = {}
    for key in ("mean_tokens", "cls_token", "lasttoken"):
        folders[key] = write_tiny_model(tmp_path_factory.mktemp(key))
        say(folders[key], json.dumps({f"pooling_mode_{key}": True}))
    return folders


def pooled(start, model: Path, prompts: list[list[int]]) -> Array:
    machine = start(model)
    lives = [machine.driver.begin(prompt) for prompt in prompts]
    works = [Work(live, len(live.tokens)) for live in lives]
    asked = np.arange(len(prompts), dtype=np.int32)
    batch = replace(machine.driver.build(works, [], []), embedded=asked)
    vectors = machine.executor.execute(batch).result().embeddings
    assert vectors is not None and vectors.dtype == np.float32
    return vectors


def test_the_last_vector_of_a_prefix_is_a_middle_vector_of_the_whole(start, models) -> None:
    prefixes = [[PROMPT[: n + 1]] for n in range(len(PROMPT))]
    each = np.concatenate([pooled(start, models["lasttoken"], prefix) for prefix in prefixes])
    mean, first = (pooled(start, models[key], [PROMPT])[0] for key in ("mean_tokens", "cls_token"))
    np.testing.assert_allclose(mean, each.mean(0), atol=1e-5)
    np.testing.assert_allclose(first, each[0], atol=1e-5)


def test_neighbours_do_not_change_a_vector(start, models) -> None:
    alone = pooled(start, models["mean_tokens"], [PROMPT])
    together = pooled(start, models["mean_tokens"], [PROMPT[:5], PROMPT, PROMPT[3:9]])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
