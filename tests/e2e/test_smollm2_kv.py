"""An 8-bit KV cache keeps the default model's predictions, with scales of its own or calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from inferplane.checkpoint import open_checkpoint
from inferplane.interfaces import Array
from inferplane.llm import LLM
from inferplane.loading import iterate_weights
from inferplane.quantizing.description import write_description
from inferplane.quantizing.perplexity import cut, sample_text
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.tolerances import KV_DELTA
from inferplane.tokenization.tokenizer import load_tokenizer

KINDS = ("fp8", "int8")
CODES = {"fp8": (448.0, "float"), "int8": (127.0, "int")}
"""The largest code, and its type as kv_cache_scheme says it."""
PIECES = 2


@pytest.fixture(scope="module")
def pieces(default_model: Path) -> list[list[int]]:
    """512 tokens of a fixed text."""
    return cut(load_tokenizer(open_checkpoint(default_model)).encode(sample_text()))[:PIECES]


@pytest.fixture(scope="module")
def plain(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(default_model, tmp_path_factory.mktemp("plain"), {}, {})


@pytest.fixture(scope="module")
def calibrated(
    default_model: Path,
    plain: Path,
    pieces: Sequence[Sequence[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """For each kind of cache a folder with scales as calibrating tools write them: the largest
    magnitude of a layer's keys and values over some text, by the largest code.
    """
    largest, folders = observed(plain, pieces[0]), {}
    for kind in KINDS:
        most, name = CODES[kind]
        scales = {name: (held / most).to(torch.bfloat16).view(1) for name, held in largest.items()}
        scheme = {"num_bits": 8, "type": name, "symmetric": True, "strategy": "tensor"}
        config = {"quant_method": "compressed-tensors", "kv_cache_scheme": scheme}
        folder = tmp_path_factory.mktemp(kind)
        folders[kind] = write(default_model, folder, scales, {"quantization_config": config})
    return folders


def write(
    model: Path, folder: Path, more: Mapping[str, torch.Tensor], changes: Mapping[str, object]
) -> Path:
    """The model stored in bfloat16, with more tensors."""
    checkpoint = open_checkpoint(model)
    weights = {
        name: tensor.contiguous() for name, tensor in iterate_weights(checkpoint, torch.bfloat16)
    }
    save_file({**weights, **more}, folder / "model.safetensors", metadata={"format": "pt"})
    write_description(checkpoint, folder, changes, "bfloat16")
    return folder


def observed(model: Path, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Name of a scale -> the largest magnitude that transformers puts into its own cache."""
    decoder = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        cache = decoder(torch.tensor([list(ids)]), use_cache=True).past_key_values
    return {
        f"model.layers.{number}.self_attn.{which}_scale": held.abs().max()
        for number, layer in enumerate(cache.layers)
        for which, held in (("k", layer.keys), ("v", layer.values))
    }


def forced(model: Path, pieces: Sequence[Sequence[int]], kv_dtype: str) -> Array:
    """The log-probability of each token of the text, by a model computed as the device does."""
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    settings = {"device": "cpu", "max_model_len": 272, "max_num_seqs": PIECES}
    with LLM(str(model), **settings, kv_dtype=kv_dtype) as llm:
        done = llm.generate([list(piece) for piece in pieces], params)
    return np.array(
        [row.values[0] for one in done for row in one.prompt_logprobs or () if row is not None]
    )


@pytest.fixture(scope="module")
def exact(plain: Path, pieces: list[list[int]]) -> Array:
    return forced(plain, pieces, "auto")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", ["of the rows", "of the checkpoint"])
def test_predictions_stay_within_the_kit_s_limit(
    kind: str,
    scales: str,
    plain: Path,
    calibrated: dict[str, Path],
    pieces: list[list[int]],
    exact: Array,
) -> None:
    model = calibrated[kind] if scales == "of the checkpoint" else plain
    got = forced(model, pieces, kind)
    delta = np.abs(got - exact).mean()
    print(f"KV in {kind}, scales {scales}: mean delta {delta:.4f}")
    assert 0 < delta <= KV_DELTA
