"""Encoders and classifiers answer what transformers answers for the same random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from inferplane import LLM
from inferplane.errors import ConfigError, ModelError, RequestError
from inferplane.pooled_values import class_shares, relevance

SENTENCE = "one small core plans what runs next and a plugin decides how it is done here"
WORDS = SENTENCE.split(" ")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
QUERY, DOCUMENT = "what runs next", "one small core plans and a plugin decides how"
TEXTS = [QUERY, DOCUMENT, "here", " ".join(WORDS * 2)]
SIZES = {
    "vocab_size": len(WORDS) + len(SPECIAL),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
FAMILIES = {"Bert": 2, "Roberta": 1, "XLMRoberta": 1}
"""Family -> kinds of segments."""


ENCODERS = [
    "native",
    pytest.param(
        "onnx",
        marks=pytest.mark.skipif(
            find_spec("onnxruntime") is None or find_spec("onnx") is None,
            reason="needs pip install 'inferplane-cpu[onnx]'",
        ),
    ),
]
"""Who computes: values of the option `encoder`."""


def write_tokenizer(folder: Path, second: int) -> None:
    """Words, framed as this family frames them; `second` = the segment of a second text."""
    vocabulary = {word: id for id, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(SPECIAL)
    pair = f"[CLS] $A [SEP] $B:{second} [SEP]:{second}"
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def write(folder: Path, kind: str, **more: Any) -> Any:
    """A random model of class `kind` in `folder`; returns it."""
    torch.manual_seed(0)
    family = next(name for name in ("XLMRoberta", "Roberta", "Bert") if kind.startswith(name))
    sizes = {**SIZES, "type_vocab_size": FAMILIES[family], **more}
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, FAMILIES[family] - 1)
    return model


def encoded(folder: Path, *texts: str) -> dict[str, torch.Tensor]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = tokenizer.encode(*texts)
    return {
        "input_ids": torch.tensor([made.ids]),
        "token_type_ids": torch.tensor([made.type_ids]),
    }


def say(folder: Path, **pooling: bool) -> None:
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


def load(folder: Path, **settings: Any) -> LLM:
    return LLM(str(folder), device="cpu", dtype="float32", **settings)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_vectors_of_a_batch_are_those_of_each_text_alone(
    family: str, encoder: str, tmp_path: Path
) -> None:
    reference = write(tmp_path, f"{family}Model")
    with load(tmp_path, options={"encoder": encoder}) as llm:
        assert llm.plan.tasks == ("embed", "score")
        got = [one.vector for one in llm.embed(TEXTS, normalize=False)]
    for vector, text in zip(got, TEXTS, strict=True):
        hidden = reference(**encoded(tmp_path, text)).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0), atol=2e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("mode, row", [("cls_token", 0), ("lasttoken", -1)])
@torch.inference_mode()
def test_files_decide_on_pooling_and_length(
    mode: str, row: int, encoder: str, tmp_path: Path
) -> None:
    reference = write(tmp_path, "BertModel")
    say(tmp_path, **{f"pooling_mode_{mode}": True})
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    with load(tmp_path, options={"encoder": encoder}) as llm:
        (got,) = llm.embed(DOCUMENT)
        with pytest.raises(RequestError) as refused:
            llm.embed(" ".join(WORDS * 2))
    assert refused.value.code == "context_length_exceeded"
    hidden = reference(**encoded(tmp_path, DOCUMENT)).last_hidden_state[0, row]
    np.testing.assert_allclose(got.vector, hidden, atol=2e-5)  # no Normalize among the modules


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_cross_encoder_scores_pairs_as_transformers_does(
    family: str, encoder: str, tmp_path: Path
) -> None:
    reference = write(tmp_path, f"{family}ForSequenceClassification", num_labels=1)
    pairs = [(QUERY, text) for text in TEXTS[1:]]
    with load(tmp_path, options={"encoder": encoder}) as llm:
        assert llm.plan.tasks == ("score", "classify")
        got = llm.score(pairs)
    for score, pair in zip(got, pairs, strict=True):
        logits = reference(**encoded(tmp_path, *pair)).logits[0]
        assert score == pytest.approx(relevance(logits.numpy()), abs=1e-5)


@torch.inference_mode()
def test_classes_have_the_probabilities_transformers_gives(tmp_path: Path) -> None:
    labels = {0: "cold", 1: "mild", 2: "warm"}
    reference = write(tmp_path, "BertForSequenceClassification", id2label=labels, num_labels=3)
    with load(tmp_path) as llm:
        got = llm.classify(TEXTS)
    for found, text in zip(got, TEXTS, strict=True):
        shares = reference(**encoded(tmp_path, text)).logits[0].softmax(-1)
        np.testing.assert_allclose(found.probs, shares, atol=1e-5)
        assert found.label == labels[int(shares.argmax())]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("encoder")
    write(folder, "BertModel")
    with load(folder) as llm:
        yield llm


def test_an_encoder_generates_nothing(encoder: LLM) -> None:
    with pytest.raises(RequestError, match="cannot generate"):
        encoder.generate(QUERY)


def test_an_encoder_keeps_nothing(encoder: LLM) -> None:
    blocks = encoder._engine.blocks
    encoder.embed(TEXTS * 30)
    assert not encoder.plan.keeps_kv and blocks.num_free == blocks.usable


def test_an_embedding_model_scores_pairs_by_angle(encoder: LLM) -> None:
    one, two = (vector.vector for vector in encoder.embed([QUERY, DOCUMENT]))
    assert encoder.score([(QUERY, DOCUMENT)]) == [pytest.approx(float(one @ two), abs=1e-6)]


@pytest.mark.parametrize("task", ["generate", "classify"])
def test_a_task_the_model_cannot_do_is_refused_at_the_start(task: str, tmp_path: Path) -> None:
    write(tmp_path, "BertModel")
    with pytest.raises(ConfigError, match=f"task '{task}': BertModel can embed, score"):
        load(tmp_path, task=task)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("activation", "bias"), [("Tanh", True), ("Identity", False)])
@torch.inference_mode()
def test_dense_parts_run_between_pooling_and_length(
    activation: str, bias: bool, encoder: str, tmp_path: Path
) -> None:
    reference = write(tmp_path, "BertModel")
    say(tmp_path, pooling_mode_mean_tokens=True)
    layers = [add_dense(tmp_path, "2_Dense", 32, 40, activation, bias)]
    layers.append(add_dense(tmp_path, "3_Dense", 40, 16, "Identity", True))
    add_part(tmp_path, "Normalize", "4_Normalize")
    with load(tmp_path, options={"encoder": encoder}) as llm:
        got = [one.vector for one in llm.embed(TEXTS)]
    for vector, text in zip(got, TEXTS, strict=True):
        wanted = reference(**encoded(tmp_path, text)).last_hidden_state[0].mean(0)
        wanted = getattr(torch.nn, activation)()(layers[0](wanted))
        wanted = torch.nn.functional.normalize(layers[1](wanted), dim=0)
        np.testing.assert_allclose(vector, wanted, atol=2e-5)


def add_part(folder: Path, kind: str, path: str) -> None:
    file = folder / "modules.json"
    parts = json.loads(file.read_text())
    part = {"idx": len(parts), "path": path, "type": f"sentence_transformers.models.{kind}"}
    file.write_text(json.dumps([*parts, part]))


def add_dense(
    folder: Path, path: str, size: int, outputs: int, activation: str, bias: bool
) -> torch.nn.Linear:
    """A random Dense module, laid out as sentence-transformers does."""
    add_part(folder, "Dense", path)
    torch.manual_seed(size)
    layer = torch.nn.Linear(size, outputs, bias=bias)
    (folder / path).mkdir()
    stored = {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}
    save_file(stored, folder / path / "model.safetensors")
    kind = "linear" if activation == "Identity" else "activation"
    config = {
        "in_features": size,
        "out_features": outputs,
        "bias": bias,
        "activation_function": f"torch.nn.modules.{kind}.{activation}",
    }
    (folder / path / "config.json").write_text(json.dumps(config))
    return layer


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"out_features": 41}, "linear.bias"),
        ({"out_features": -1}, "need whole numbers"),
        ({"bias": False}, "linear.bias"),
        ({"activation_function": "acme.Swish9"}, "Swish9"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
    ],
)
def test_a_dense_part_that_does_not_fit_its_files_is_refused(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    write(tmp_path, "BertModel")
    say(tmp_path, pooling_mode_mean_tokens=True)
    add_dense(tmp_path, "2_Dense", 32, 40, "Tanh", True)
    file = tmp_path / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=told):
        load(tmp_path)


def test_parts_nobody_computes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "BertModel")
    part = {"idx": 2, "path": "2_WordWeights", "type": "sentence_transformers.models.WordWeights"}
    (tmp_path / "modules.json").write_text(json.dumps([part]))
    with pytest.raises(ModelError, match="module 'WordWeights'"):
        load(tmp_path)
    say(tmp_path, pooling_mode_mean_tokens=True)
    add_part(tmp_path, "Normalize", "2_Normalize")
    add_dense(tmp_path, "3_Dense", 32, 40, "Tanh", True)
    with pytest.raises(ModelError, match="Normalize, Dense is not computed here"):
        load(tmp_path)


def test_a_pooling_nobody_computes_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "BertModel")
    say(tmp_path, pooling_mode_max_tokens=True)
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        load(tmp_path)


def test_one_class_has_a_logistic_probability() -> None:
    assert class_shares(np.array([0.0], np.float32)) == [0.5]
    assert sum(class_shares(np.array([100.0, -100.0, 3.0], np.float32))) == pytest.approx(1.0)
