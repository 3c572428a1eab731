"""FlashInfer's attention beside ours on the same cache: errors against float64, and times."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from attention_cases import Case, Device, error, expected, make_case
from probes import graph_seconds

from inferplane.interfaces import AttentionMeta
from inferplane_cuda.attention.flashinfer import FlashInferAttention
from inferplane_cuda.attention.flashinfer_modules import Modules, main, package_problem

__all__ = ["compare_flashinfer"]

_CASES: dict[str, tuple[Any, ...]] = {
    "decode 256x1024 32/8": ((32, 8), [1] * 256, [1023] * 256),
    "decode 64x4160 shared 32/8": ((32, 8), [1] * 64, [4159] * 64, 256),
    "decode 1x512 32/8": ((32, 8), [1], [511]),
    "decode 128 skewed 32/8": ((32, 8), [1] * 128, [16 * i + 15 for i in range(128)]),
    "chunk 2048 after 6144 32/8": ((32, 8), [2048], [6144]),
    "chunks 64x64 after 4096 32/8": ((32, 8), [64] * 64, [4096] * 64, 256),
}


def compare_flashinfer(left_s: float) -> dict[str, Any]:
    """case -> {ours_us, flashinfer_us, ratio, rate, error}; compiles first what is missing."""
    if problem := package_problem():
        print(f"-- FlashInfer left out: {problem}", flush=True)
        return {}
    began = time.perf_counter()
    if not Modules("bfloat16", 128, False, False).is_compiled("fa2"):
        main(["--head-dim", "128"])
    found: dict[str, Any] = {"compiled_s": time.perf_counter() - began}
    for name, arguments in _CASES.items():
        if time.perf_counter() - began > left_s:
            print("-- the rest of FlashInfer left out: the budget is used up", flush=True)
            return found
        found[name] = row = _compare(make_case(*arguments))
        print(
            f"attention {name:30} ours {row['ours_us']:9.1f} us, FlashInfer "
            f"{row['flashinfer_us']:9.1f} us ({row['ratio']:5.2f} times), "
            f"{row['rate']:7.2f} TB/s or TFLOP/s, error {row['error']:.1e}",
            flush=True,
        )
    return found


def _compare(case: Case) -> dict[str, float]:
    ours = graph_seconds([case.run] * 4)
    backend: Any = FlashInferAttention(case.spec, Device())  # type: ignore[arg-type]
    meta = backend.build(case.batch, None)
    arrays = {name: torch.from_numpy(array).cuda() for name, array in meta.arrays.items()}
    other = replace(case, backend=backend, meta=AttentionMeta(meta.static, arrays, meta.host))
    wrong = error(other.run(), expected(other))
    theirs = graph_seconds([other.run] * 4)
    decodes = case.batch.num_decodes > 0
    work = case.kv_bytes / 1e12 if decodes else case.flop / 1e12
    return {
        "ours_us": ours * 1e6,
        "flashinfer_us": theirs * 1e6,
        "ratio": theirs / ours,
        "rate": work / theirs,
        "error": wrong,
    }
