"""Pack one small layer in each layout of gptqmodel and write down what the library reads from it.

python make_layers.py [FILE]

FILE, by default layers.safetensors beside this script, holds `CASE/TENSOR` as a checkpoint would
and `CASE/weight`, f32[O,I], by the library's own dequantisation; its metadata has each case's
quantization_config. It runs in the environment of make_checkpoints.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GROUP, GEMV_GROUP = 32, 64
"""A layer has as many outputs as a group has inputs, and two groups; gemv takes no less."""
CASES: Mapping[str, dict[str, Any]] = {
    **{
        f"gptq-{bits}bit{'' if sym else '-asymmetric'}{'-v2' if v2 else ''}": {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": GROUP,
            "sym": sym,
            "desc_act": False,
            "checkpoint_format": "gptq_v2" if v2 else "gptq",
        }
        for bits, sym, v2 in (
            (2, False, False),
            (3, True, False),
            (4, True, False),
            (4, False, False),
            (4, False, True),
            (8, True, False),
        )
    },
    **{
        f"awq-{layout}": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": layout,
        }
        for layout, group in (("gemm", GROUP), ("gemv", GEMV_GROUP))
    },
}


def main() -> None:
    """Write the file."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from safetensors.torch import save_file

    beside = Path(__file__).with_name("layers.safetensors")
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else beside
    held = {}
    for case, config in CASES.items():
        pack = _gptq if config["quant_method"] == "gptq" else _awq
        held |= {f"{case}/{name}": tensor for name, tensor in pack(config).items()}
    save_file(held, file, metadata={case: json.dumps(config) for case, config in CASES.items()})
    print(f"{file}: {len(CASES)} layers")


def _grid(bits: int, group: int, is_symmetric: bool) -> tuple[Any, Any, Any, Any]:
    """(linear layer on the grid, scales f[O,G], zero points f[O,G], group of each input)."""
    import torch

    torch.manual_seed(bits)
    groups = torch.arange(2 * group, dtype=torch.int32) // group
    scales = (0.01 + 0.02 * torch.rand(group, 2)).half().float()
    zeros = torch.full((group, 2), 2.0 ** (bits - 1))
    if not is_symmetric:
        zeros = torch.randint(1, 2**bits, zeros.shape).float()
    codes = torch.randint(0, 2**bits, (group, 2 * group)).float()
    linear = torch.nn.Linear(2 * group, group, bias=False)
    wide = (codes - zeros[:, groups.long()]) * scales[:, groups.long()]
    linear.weight = torch.nn.Parameter(wide, requires_grad=False)
    return linear, scales, zeros, groups


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "bits": config["bits"],
        "group_size": config["group_size"],
        "sym": config.get("sym", False),
        "desc_act": False,
        "in_features": 2 * config["group_size"],
        "out_features": config["group_size"],
    }


def _gptq(config: Mapping[str, Any]) -> dict[str, Any]:
    """Packed and read in version 2, stored in the version asked for."""
    from gptqmodel import QuantizeConfig
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    linear, scales, zeros, groups = _grid(config["bits"], GROUP, config["sym"])
    layer = TorchLinear(**_arguments(config))
    layer.pack_original(linear, scales, zeros, groups)
    names = ("qweight", "qzeros", "scales", "g_idx")
    layer.post_init()
    stored = {name: getattr(layer, name).clone().contiguous() for name in names}
    layer.scales = layer.scales.float()
    meant = layer.dequantize_weight().t().float().contiguous()
    if config["checkpoint_format"] == "gptq":
        asked = QuantizeConfig(bits=config["bits"], group_size=GROUP)
        convert_gptq_v2_to_v1_format_module(layer, asked)
        stored["qzeros"] = layer.qzeros.clone().contiguous()
    return {**stored, "weight": meant}


def _awq(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both layouts stand for what the library reads from the first."""
    from gptqmodel.nn_modules.qlinear.gemv_awq import AwqGEMVLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    linear, scales, zeros, _ = _grid(config["bits"], config["group_size"], False)
    gemm = AwqTorchLinear(**_arguments(config))
    gemm.pack(linear, scales.half(), zeros)
    meant = dequantize_gemm(gemm.qweight, gemm.qzeros, gemm.scales.float(), 4, gemm.group_size)
    layer = gemm
    if config["version"] == "gemv":
        layer = AwqGEMVLinear(**_arguments(config))
        layer.pack(linear, scales.half(), zeros)
    stored = {n: getattr(layer, n).contiguous() for n in ("qweight", "qzeros", "scales")}
    return {**stored, "weight": meant.t().float().contiguous()}


if __name__ == "__main__":
    main()
