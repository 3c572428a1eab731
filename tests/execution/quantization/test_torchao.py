"""torchao's layers mean codes times scales, and what is no such layer is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import QuantScheme
from inferplane.quantization.canonical import check_weight
from inferplane.quantization.reference import dequantize
from inferplane.quantization.torchao import TorchAo

LAYER = "model.layers.0.mlp.up_proj"
OUTPUTS, INPUTS = 8, 48


def config(kind: str = "Int8WeightOnlyConfig", version: int = 2, **more: Any) -> dict[str, Any]:
    default = {"_type": kind, "_version": version, "_data": {}}
    return {"quant_method": "torchao", "quant_type": {"default": default}, **more}


def stored(dtype: torch.dtype, by_tensor: bool = False) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(-127, 128, (OUTPUTS, INPUTS), generator=random).to(dtype)
    scales = torch.rand((1, 1) if by_tensor else (OUTPUTS, 1), generator=random) + 0.1
    held = {f"{LAYER}._weight_qdata": codes, f"{LAYER}._weight_scale": scales}
    if dtype == torch.int8:
        held[f"{LAYER}._weight_zero_point"] = torch.zeros(OUTPUTS, 1, dtype=torch.int8)
    return held


@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("Int8WeightOnlyConfig", QuantScheme("int8")),
        ("Int8DynamicActivationInt8WeightConfig", QuantScheme("int8", activation="int8")),
        ("Float8WeightOnlyConfig", QuantScheme("fp8_e4m3")),
        (
            "Float8DynamicActivationFloat8WeightConfig",
            QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
        ),
    ],
)
def test_layers_mean_codes_times_scales(kind: str, scheme: QuantScheme, by_tensor: bool) -> None:
    form = TorchAo(config(kind))
    assert form.scheme(LAYER) == scheme and form.scheme("lm_head") is None
    held = stored(torch.int8 if scheme.weight == "int8" else torch.float8_e4m3fn, by_tensor)
    assert set(form.tensors(LAYER)) == set(held)
    weight = form.canonical(LAYER, held)
    check_weight(LAYER, weight, scheme, OUTPUTS, INPUTS)
    codes, scales = held[f"{LAYER}._weight_qdata"], held[f"{LAYER}._weight_scale"]
    torch.testing.assert_close(dequantize(weight, scheme), codes.float() * scales)


def test_layers_left_out_stay_dense() -> None:
    form = TorchAo(config(modules_to_not_convert=["mlp"]))
    assert form.scheme(LAYER) is None and form.scheme("model.layers.0.self_attn.q_proj")


@pytest.mark.parametrize(
    ("part", "broken", "fault"),
    [
        ("qdata", torch.zeros(OUTPUTS, INPUTS), "_weight_qdata' has dtype torch.float32"),
        ("scale", torch.ones(OUTPUTS, 3), "3 scales for an output"),
        ("scale", torch.ones(OUTPUTS + 1, 1), "fits no 8 outputs"),
        ("zero_point", torch.ones(OUTPUTS, 1, dtype=torch.int8), "asymmetric int8"),
    ],
)
def test_damage_is_named(part: str, broken: torch.Tensor, fault: str) -> None:
    form = TorchAo(config())
    with pytest.raises(ModelError, match=fault):
        form.canonical(LAYER, stored(torch.int8) | {f"{LAYER}._weight_{part}": broken})


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (config("Int4WeightOnlyConfig"), "'Int4WeightOnlyConfig' is not served .accepted: Int8W"),
        (config(version=1), "version 1 is not served, 2 is"),
        ({"quant_method": "torchao"}, "torchao's None is not served"),
    ],
)
def test_other_configurations_are_refused(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        TorchAo(given)
