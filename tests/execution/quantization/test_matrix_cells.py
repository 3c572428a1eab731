"""Every quantization cell of the matrix, by serving a model: native runs, others are counted.

For each device that is usable on this machine and has a row; the kit tests the kernels themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inferplane.errors import ConfigError
from inferplane.llm import LLM
from inferplane.planner import Survey, run_survey
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.features import QUANTIZATION, features_of
from inferplane.testing.conformance.subject import find_subject
from inferplane.testing.tiny import write_tiny_model

SIZES = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256, "num_hidden_layers": 1}
BYTES = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
FP8 = {**BYTES, "type": "float"}
PER_TOKEN = {"strategy": "token", "dynamic": True}


def compressed(layout: str, weights: object, inputs: object = None) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


STORED: Mapping[str, dict[str, object]] = {
    "int8 weights": compressed("pack-quantized", BYTES),
    "int8 weights and activations": compressed("int-quantized", BYTES, {**BYTES, **PER_TOKEN}),
    "int4 weights, groups of 128": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "int4 weights, groups of 32 with offsets": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
    },
    "fp8 weights": compressed("float-quantized", FP8),
    "fp8 weights and activations": compressed("float-quantized", FP8, {**FP8, **PER_TOKEN}),
}
"""Feature of the matrix -> a checkpoint that needs it."""


@pytest.fixture(scope="module")
def seen() -> Survey:
    return run_survey(None, (), False)


def model_of(folder: Path, feature: str) -> Path:
    return write_tiny_model(folder, overrides={**SIZES, "quantization_config": STORED[feature]})


def served(model: Path, device: str, **settings: Any) -> tuple[dict[str, set[str]], dict[str, int]]:
    """({scheme: who multiplies}, what was counted as a fallback) after a few tokens."""
    with LLM(str(model), device=device, load_format="dummy", max_model_len=64, **settings) as llm:
        (done,) = llm.generate([[5, 6, 7]], SamplingParams(max_tokens=3, ignore_eos=True))
        assert len(done.token_ids) == 3
        found: dict[str, set[str]] = {}
        for choice in llm.choices():
            if choice.kind == "quantization":
                found.setdefault(choice.site, set()).add(choice.name)
        return found, dict(llm._executor.stats().fallbacks)


def test_every_feature_of_the_matrix_has_a_checkpoint_here() -> None:
    assert set(STORED) == set(QUANTIZATION)


@pytest.mark.parametrize("feature", QUANTIZATION)
def test_a_cell_of_the_matrix_is_what_a_served_model_gets(
    feature: str, tmp_path: Path, seen: Survey
) -> None:
    model = model_of(tmp_path, feature)
    assert seen.capabilities, "no plugin is usable on this machine"
    for device in seen.capabilities:
        offered = features_of(find_subject(device, None))["quantization"]
        assert isinstance(offered, dict)
        owner = offered.get(feature, "")
        if not owner:
            continue
        found, counted = served(model, device)
        by = {name for names in found.values() for name in names}
        if owner != "dequantized":
            assert by == {owner} and "quantized_linear" not in counted, device
            served(model, device, fallback="error")
            continue
        assert by == {"reference"} and counted["quantized_linear"] > 0, device
        with pytest.raises(ConfigError, match=f"no kernel on {device} for .*fallback=error"):
            served(model, device, fallback="error")


def test_a_device_that_is_not_here_refuses_a_quantised_model_with_its_reason(
    tmp_path: Path, seen: Survey
) -> None:
    model = model_of(tmp_path, "int8 weights")
    absent = {d.name: d.probe for d in seen.devices if d.name not in seen.capabilities}
    for device, probe in absent.items():
        assert probe is not None and probe.reason, device
        with pytest.raises(ConfigError) as refusal:
            served(model, device)
        assert device in str(refusal.value) and probe.reason in str(refusal.value)
