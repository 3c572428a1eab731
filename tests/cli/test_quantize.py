"""Laws of `inferplane quantize`: what it writes serves, here and in the reference library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from inferplane.checkpoint import open_checkpoint
from inferplane.cli.app import run
from inferplane.llm import LLM
from inferplane.loading import iterate_weights
from inferplane.quantization.compressed_tensors import CompressedTensors
from inferplane.quantization.reference import dequantize
from inferplane.quantization.writing import METHODS
from inferplane.quantizing import calibrated
from inferplane.quantizing.shards import ShardWriter
from inferplane.sampling_params import SamplingParams
from inferplane.testing.tiny import write_tiny_model

IDS = list(range(3, 43))
WORST = {"int8": 0.02, "int4": 0.15, "fp8": 0.1}
"""Largest error of a weight as a share of its row's largest one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("dense"), "llama")


@pytest.fixture(scope="module", params=METHODS)
def quantized(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(method, the folder it was written to)"""
    out = tmp_path_factory.mktemp("out") / request.param
    assert run(["quantize", str(model), "--method", request.param, "--out", str(out), *QUIET]) == 0
    return request.param, out


QUIET = ["--no-check"]


def logprobs_here(folder: Path) -> torch.Tensor:
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    kernels = {"quantization": "reference"}
    with LLM(str(folder), device="cpu", dtype="float32", kernels=kernels) as llm:
        told = llm.generate([IDS], params)[0].prompt_logprobs
    assert told is not None
    return torch.tensor([row.values[0] for row in told if row is not None])


def logprobs_there(folder: Path) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([IDS])
    with torch.inference_mode():
        spread = model(tokens).logits[0].log_softmax(-1)[:-1]
    return spread.gather(1, tokens[0, 1:, None])[:, 0]


def test_each_layer_keeps_its_weights_as_far_as_the_bits_allow(
    quantized: tuple[str, Path], model: Path
) -> None:
    method, out = quantized
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    form, stored = CompressedTensors(config), load_file(out / "model.safetensors")
    for name, dense in iterate_weights(open_checkpoint(model)):
        layer = name.removesuffix(".weight")
        scheme = form.scheme(layer) if "_proj" in name else None
        if scheme is None:
            assert torch.equal(stored[name], dense), name
            continue
        held = {part: stored[part] for part in form.tensors(layer)}
        error = (dequantize(form.canonical(layer, held), scheme) - dense).abs().amax(1)
        assert bool((error <= WORST[method] * dense.abs().amax(1)).all()), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_it_writes_means_the_same_here_and_in_transformers(
    quantized: tuple[str, Path],
) -> None:
    method, out = quantized
    delta = (logprobs_here(out) - logprobs_there(out)).abs().mean()
    # Two roundings of activations to fp8 differ where the sums before them differ at all.
    assert delta < (0.15 if method == "fp8" else 1e-3)


def test_tokenizer_and_generation_settings_come_along(
    quantized: tuple[str, Path], model: Path
) -> None:
    for name in ("tokenizer.json", "generation_config.json"):
        assert (quantized[1] / name).read_bytes() == (model / name).read_bytes()


def test_perplexity_is_printed_before_and_after(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--method", "int8", "--out", str(tmp_path / "q"), "--device", "cpu"]
    assert run(["quantize", str(model), *arguments]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    words = said.replace(",", "").split()
    before, after = float(words[1]), float(words[3])
    assert said.startswith("perplexity: ") and abs(after / before - 1) < 0.1


def test_an_existing_folder_is_never_overwritten(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quantize", str(model), "--method", "int8", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_quantised_already_is_refused(
    quantized: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "twice"
    assert run(["quantize", str(quantized[1]), "--method", "int8", "--out", str(out), *QUIET]) == 2
    assert "is quantised already (compressed-tensors)" in capsys.readouterr().err


def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 80, "head_dim": 16, "num_attention_heads": 5, "num_key_value_heads": 5}
    odd = write_tiny_model(tmp_path / "odd", "llama", overrides=sizes)
    made = tmp_path / "made"
    out = str(made / "int4")
    assert run(["quantize", str(odd), "--method", "int4", "--out", out, *QUIET]) == 2
    assert "has 80 inputs, int4 needs a multiple of 32" in capsys.readouterr().err
    assert not list(made.iterdir())


@pytest.mark.parametrize("method", calibrated.METHODS)
def test_a_method_whose_library_is_missing_names_the_command_that_installs_it(
    method: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(calibrated, "find_spec", lambda name: None)
    out = str(tmp_path / "out")
    assert run(["quantize", str(model), "--method", method, "--out", out]) == 2
    assert "pip install 'inferplane[quantize]'" in capsys.readouterr().err


def test_a_group_must_divide_the_inputs_of_every_layer() -> None:
    assert calibrated.group_size([576, 1536]) == 64
    assert calibrated.group_size([4096, 14336]) == 128
    with pytest.raises(Exception, match="share no group of 128, 64, 32"):
        calibrated.group_size([80, 128])


def test_large_models_are_cut_into_files_with_an_index(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, shard_bytes=100) as writer:
        for number in range(5):
            writer.add(f"t{number}", torch.full((10,), float(number)))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == writer.num_bytes == 200
    files = {name: load_file(tmp_path / file) for name, file in index["weight_map"].items()}
    assert len(set(index["weight_map"].values())) == 3
    assert all(float(files[f"t{n}"][f"t{n}"][0]) == n for n in range(5))
