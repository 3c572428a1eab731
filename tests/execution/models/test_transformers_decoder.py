"""Decoders of the transformers library over our attention continue as transformers continues."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from inferplane import LLM, SamplingParams
from inferplane.errors import ConfigError, InferplaneError, ModelError

SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TWO = {"num_key_value_heads": 2}
SMALL = {**TWO, "head_dim": 16}
KINDS: Mapping[str, Mapping[str, object]] = {
    "arcee": TWO,
    "cohere": TWO,
    "cohere2": {**TWO, "sliding_window": 16},
    "ernie4_5": SMALL,
    "exaone4": {**TWO, "sliding_window": 16},
    "gemma2": {**SMALL, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "glm4": SMALL,
    "granite": {**TWO, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "helium": SMALL,
    "nemotron": TWO,
    "olmo2": {},
    "phi": {},
    "seed_oss": SMALL,
    "smollm3": TWO,
    "stablelm": TWO,
    "starcoder2": {**TWO, "sliding_window": None},
}
"""Kind -> what its configuration says beyond the sizes; none has a model of ours."""
PROMPTS = [list(range(5, 10)), list(range(90, 50, -1)), [7, 7, 30, 31] * 6]
COUNT = 10


def write(folder: Path, kind: str) -> Any:
    """A random model in `folder`; returns it."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**SIZES, **KINDS.get(kind, {}))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def continued(model: Any, prompt: list[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(COUNT):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_agree(kind: str, tmp_path: Path, load: Callable[..., Any]) -> None:
    reference = write(tmp_path, kind)
    ours = load(tmp_path)
    for prompt in PROMPTS:
        assert ours.greedy(prompt, COUNT) == continued(reference, prompt)


@pytest.mark.parametrize("kind", ["cohere2", "gemma2"])
def test_they_agree_through_paged_kv_in_one_batch(kind: str, tmp_path: Path) -> None:
    reference = write(tmp_path, kind)
    sampling = SamplingParams(temperature=0.0, max_tokens=COUNT, ignore_eos=True)
    chunked = {"max_model_len": 96, "max_num_seqs": 4, "max_batched_tokens": 32}
    with LLM(str(tmp_path), device="cpu", dtype="float32", **chunked) as llm:
        made = llm.generate(PROMPTS, sampling)
        choices = llm._engine.executor.choices()
    assert any((c.kind, c.name) == ("model", "TransformersDecoder") for c in choices)
    wanted = [continued(reference, prompt) for prompt in PROMPTS]
    assert [list(one.token_ids) for one in made] == wanted


@torch.inference_mode()
def scored(model: Any, prompt: list[int]) -> list[float]:
    """The log-likelihood of each token of a prompt but the first."""
    logits = model(torch.tensor([prompt]), use_cache=False).logits[0].float().log_softmax(-1)
    return [float(logits[at, token]) for at, token in enumerate(prompt[1:])]


def test_asked_for_it_rounds_bfloat16_where_the_library_rounds(tmp_path: Path) -> None:
    """Llama has a model of ours; 1e-2 is a third of what rounding elsewhere makes of it."""
    write(tmp_path, "llama")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    settings = {"model_impl": "transformers", "attention": "paged", "max_model_len": 96}
    sampling = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with LLM(str(tmp_path), device="cpu", dtype="bfloat16", **settings) as llm:
        made = llm.generate(PROMPTS, sampling)
        choices = llm._engine.executor.choices()
    assert any((c.kind, c.name) == ("model", "TransformersDecoder") for c in choices)
    for prompt, one in zip(PROMPTS, made, strict=True):
        found = [entry.values[0] for entry in (one.prompt_logprobs or ()) if entry is not None]
        assert found == pytest.approx(scored(reference, prompt), abs=1e-2)


def refusal(load: Callable[..., Any], folder: Path) -> str:
    with pytest.raises(InferplaneError) as refused:
        load(folder)
    assert isinstance(refused.value, ModelError | ConfigError)
    return str(refused.value)


def test_a_layer_that_attends_twice_is_refused(tmp_path: Path, load: Callable[..., Any]) -> None:
    write(tmp_path, "diffllama")
    assert "2 of 2 layers attend, 4 times in all" in refusal(load, tmp_path)


@pytest.mark.parametrize("change", ["missing", "misshapen", "unknown"])
def test_tensors_are_checked_by_name_and_shape(
    change: str, tmp_path: Path, load: Callable[..., Any]
) -> None:
    write(tmp_path, "olmo2")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    held = tensors.pop(name)
    if change == "misshapen":
        tensors[name] = held[:, :-1].contiguous()
    if change == "unknown":
        tensors |= {name: held, "model.layers.1.mlp.extra.weight": held.clone()}
    save_file(tensors, file, {"format": "pt"})
    assert ("extra" if change == "unknown" else name) in refusal(load, tmp_path)


def test_a_class_that_nobody_has_is_refused_by_name(
    tmp_path: Path, load: Callable[..., Any]
) -> None:
    write(tmp_path, "olmo2")
    config = json.loads((tmp_path / "config.json").read_text())
    remote = {"architectures": ["AcmeForCausalLM"], "auto_map": {"AutoModel": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config | remote))
    assert "'AcmeForCausalLM'" in refusal(load, tmp_path)


def test_without_the_library_the_error_names_it(
    tmp_path: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "olmo2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "inferplane[transformers]" in refusal(load, tmp_path)
