"""Decoders as embedding models and classifiers answer what transformers answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from inferplane import LLM
from inferplane.errors import ModelError, RequestError
from inferplane.pooled_values import relevance

SENTENCE = "one small core plans what runs next and a plugin decides how it is done here"
WORDS = SENTENCE.split(" ")
SPECIAL = ["[PAD]", "[UNK]", "[END]"]
TEXTS = ["what runs next", " ".join(WORDS[:9]), " ".join(WORDS * 2)]
SIZES = {
    "vocab_size": len(WORDS) + len(SPECIAL),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
FAMILIES = ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")


def write(folder: Path, family: str, kind: str, **more: Any) -> Any:
    """A random model of class `family``kind` with a tokenizer that ends each text; returns it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | more)
    model = getattr(transformers, f"{family}{kind}")(config).eval()
    model.save_pretrained(folder)
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*SPECIAL, *WORDS])}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(SPECIAL)
    made.post_processor = processors.TemplateProcessing(
        single="$A [END]", pair="$A $B [END]", special_tokens=[("[END]", 2)]
    )
    made.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return model


def ids(folder: Path, *texts: str) -> torch.Tensor:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return torch.tensor([tokenizer.encode(*texts).ids])


def load(folder: Path, **settings: Any) -> LLM:
    return LLM(str(folder), device="cpu", dtype="float32", **settings)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_the_vector_of_a_text_is_its_last_tokens_state(family: str, tmp_path: Path) -> None:
    reference = write(tmp_path, family, "Model")
    with load(tmp_path) as llm:
        assert llm.plan.tasks == ("embed", "score")
        got = [one.vector for one in llm.embed(TEXTS, normalize=False)]
        with pytest.raises(RequestError, match="cannot generate"):
            llm.generate(TEXTS[0])
    for vector, text in zip(got, TEXTS, strict=True):
        last = reference(ids(tmp_path, text)).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, last, atol=3e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_decoder_with_classes_has_the_probabilities_transformers_gives(
    family: str, tmp_path: Path
) -> None:
    labels = {0: "cold", 1: "mild", 2: "warm"}
    more = {"id2label": labels, "num_labels": 3}
    reference = write(tmp_path, family, "ForSequenceClassification", **more)
    with load(tmp_path) as llm:
        assert llm.plan.tasks == ("classify",)
        got = llm.classify(TEXTS)
    for found, text in zip(got, TEXTS, strict=True):
        shares = reference(ids(tmp_path, text)).logits[0].softmax(-1)
        np.testing.assert_allclose(found.probs, shares, atol=3e-5)
        assert found.label == labels[int(shares.argmax())]


@torch.inference_mode()
def test_a_decoder_with_one_class_scores_pairs(tmp_path: Path) -> None:
    reference = write(tmp_path, "Qwen3", "ForSequenceClassification", num_labels=1)
    with load(tmp_path) as llm:
        got = llm.score([(TEXTS[0], text) for text in TEXTS])
    for score, text in zip(got, TEXTS, strict=True):
        logits = reference(ids(tmp_path, TEXTS[0], text)).logits[0]
        assert score == pytest.approx(relevance(logits.numpy()), abs=3e-5)


@torch.inference_mode()
def test_a_generating_class_over_tensors_saved_without_one_embeds(tmp_path: Path) -> None:
    """How Qwen3-Embedding comes: ForCausalLM in its config, names without a prefix, tied."""
    causal = write(tmp_path, "Qwen3", "ForCausalLM", tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({name.removeprefix("model."): x for name, x in tensors.items()}, file)
    parts = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_N", "Normalize")]
    modules = [
        {"idx": int(n), "name": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, path, kind in parts
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    with load(tmp_path) as llm:
        assert llm.plan.tasks == ("embed", "score")
        got = [one.vector for one in llm.embed(TEXTS)]
    for vector, text in zip(got, TEXTS, strict=True):
        last = causal.model(ids(tmp_path, text)).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, last / last.norm(), atol=3e-5)


def test_a_decoder_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "Qwen2", "Model")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"is_causal": False}))
    with pytest.raises(ModelError, match="whole text from each token"):
        load(tmp_path)
