"""Matrices of Llama-3.1-8B in 8 and 4 bits: time, bandwidth and error of each beside bf16."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from probes import graph_seconds
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, LinearSite, QuantKernel, QuantScheme
from inferplane.quantization.reference import dequantize, requantize_input
from inferplane_cuda.quantization.kernels import StreamedFp8, StreamedWeights

__all__ = ["time_quantized"]

_MATRICES = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate-up": (28672, 4096),
    "down": (4096, 14336),
}
_CASES: dict[str, tuple[type[QuantKernel], QuantScheme, float]] = {
    "fp8": (StreamedFp8, QuantScheme("fp8_e4m3", activation="fp8_e4m3"), 1.0),
    "int8": (StreamedWeights, QuantScheme("int8"), 1.0),
    "int4": (StreamedWeights, QuantScheme("int4", 128), 0.5 + 4 / 128),
}
"""Kernel, scheme, bytes a weight with its scales."""
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 2048, 8192)
_CACHE_BYTES = 160e6
"""Copies of a matrix together exceed the cache."""


@dataclass(frozen=True, slots=True)
class _Device:
    torch_device: str


def time_quantized(left_s: float, device: str = "cuda") -> dict[str, Any]:
    """name -> {us, bf16_us, ratio, tb_s, error}; ends when the time is used up.

    `error` is the relative Frobenius norm against float64 on the same rounded activations.
    """
    began, found = time.perf_counter(), {}
    for matrix, (outputs, inputs) in _MATRICES.items():
        copies = max(2, int(_CACHE_BYTES // (outputs * inputs)) + 1)
        dense = [
            torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16) for _ in range(copies)
        ]
        for rows in _ROWS:
            x = torch.randn(rows, inputs, device=device, dtype=torch.bfloat16)
            plain = graph_seconds([lambda w=w, x=x: F.linear(x, w) for w in dense], 10)  # type: ignore[misc]
            for name, (kind, scheme, width) in _CASES.items():
                if time.perf_counter() - began > left_s:
                    return found
                kernel = kind(scheme, LinearSite(inputs, outputs, "bfloat16"), _Device(device))  # type: ignore[arg-type]
                weights = [_made(scheme, outputs, inputs, device) for _ in range(copies)]
                packs = [kernel.repack(weight) for weight in weights]
                calls = [lambda p=p, k=kernel, x=x: k.apply(x, p) for p in packs]  # type: ignore[misc]
                seconds = graph_seconds(calls, 10)
                one = {
                    "us": round(seconds * 1e6, 2),
                    "bf16_us": round(plain * 1e6, 2),
                    "ratio": round(plain / seconds, 2),
                    "tb_s": round(width * outputs * inputs / seconds / 1e12, 2),
                    "error": _error(kernel.apply(x, packs[0])[:8], x[:8], scheme, weights[0]),
                }
                found[f"{matrix} {name} x {rows}"] = one
                print(f"   {matrix:8} {name:5} {rows:5} rows {one}", flush=True)
    return found


def _made(scheme: QuantScheme, outputs: int, inputs: int, device: str) -> CanonicalWeight:
    groups = inputs // scheme.group if scheme.group else 1
    scales = (torch.rand(outputs, groups, device=device) + 0.5) / 100
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(outputs, inputs, device=device).to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, (outputs, inputs), device=device, dtype=torch.int8)
    return CanonicalWeight(values, scales)


def _error(got: Tensor, x: Tensor, scheme: QuantScheme, weight: CanonicalWeight) -> float:
    want = requantize_input(x, scheme, None).double() @ dequantize(weight, scheme).double().t()
    return float((got.double() - want).norm() / want.norm())
