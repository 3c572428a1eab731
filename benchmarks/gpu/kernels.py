"""Times of single kernels in their possible settings: what the tables of tuning.py come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import triton
from attention_cases import make_case, rebuild
from probes import graph_seconds

from inferplane.ops.reference.moe import fused_moe as every_expert
from inferplane_cuda.attention.coded import CodedAttention
from inferplane_triton.attention.paged import PagedAttention
from inferplane_triton.device.stream import stream_rows
from inferplane_triton.kernels.experts import fused_moe
from inferplane_triton.kernels.norm import add_rms_norm
from inferplane_triton.kernels.sampling import argmax
from inferplane_triton.tuning import DecodeTuning, PrefillTuning

__all__ = ["time_kernels"]

Row = tuple[str, str, float, float]
"""Case, setting, microseconds, TB/s or TFLOP/s."""


def time_kernels(budget_s: float) -> list[Row]:
    """As many cases as the budget allows, the most valuable first; prints each as it ends."""
    deadline = time.perf_counter() + budget_s
    rows: list[Row] = []
    for part in (decode_rows, coded_rows, expert_rows, stream_rows_times, prefill_rows, small_rows):
        for row in part():
            rows.append(row)
            print(f"kernel {row[0]:34} {row[1]:34} {row[2]:9.2f} us {row[3]:8.2f}", flush=True)
            if time.perf_counter() > deadline:
                print("-- the rest of the kernels left out: the budget is used up", flush=True)
                return rows
        torch.cuda.empty_cache()
    return rows


def attempt(case: str, setting: str, make: Callable[[], tuple[float, float]]) -> Row:
    """A setting that does not fit the device is a row with its reason, not an end."""
    try:
        seconds, rate = make()
    except Exception as error:
        return case, f"{setting}: {type(error).__name__} {str(error)[:60]}", 0.0, 0.0
    return case, setting, seconds * 1e6, rate


def decode_rows() -> Iterator[Row]:
    """TB/s of keys and values."""
    wide = [DecodeTuning(t, w, s, p, 64) for t, w, s, p in (
        (64, 4, 3, 4), (64, 4, 3, 2), (64, 4, 2, 4), (128, 4, 2, 4),
    )]  # fmt: skip
    lone = [DecodeTuning(t, w, s, p, m) for t, w, s, p, m in (
        (64, 4, 3, 4, 64), (64, 4, 2, 4, 64), (64, 4, 3, 2, 128), (32, 4, 3, 4, 32),
        (64, 8, 2, 4, 64), (64, 2, 2, 4, 64),
    )]  # fmt: skip
    cases: list[tuple[str, Any, list[DecodeTuning]]] = [
        ("decode 256x1024 32/8", ((32, 8), [1] * 256, [1023] * 256), wide),
        ("decode 256x1024 16/8", ((16, 8), [1] * 256, [1023] * 256), wide[:2]),
        ("decode 1x512 16/8", ((16, 8), [1], [511]), lone),
        ("decode 1x640 32/8", ((32, 8), [1], [639]), lone),
        ("decode 8x1024 32/8", ((32, 8), [1] * 8, [1023] * 8), wide),
        ("decode 64x4160 shared 32/8", ((32, 8), [1] * 64, [4159] * 64, 256), wide[:4]),
        ("decode 128 skewed 32/8", ((32, 8), [1] * 128, [16 * i + 15 for i in range(128)]), wide),
    ]
    for name, arguments, tunings in cases:
        case = make_case(*arguments)
        for tuning in tunings:
            case.backend._decode = tuning  # its own lone settings are off: `lone` is 0
            programs = 132 * tuning.programs_per_unit
            case.backend._piece_slots = max(1, programs // case.spec.num_kv_heads)
            rebuild(case)

            def timed(case: Any = case) -> tuple[float, float]:
                seconds = graph_seconds([case.run] * 4)
                return seconds, case.kv_bytes / seconds / 1e12

            yield attempt(name, str(tuning)[13:-1], timed)


def prefill_rows() -> Iterator[Row]:
    """TFLOP/s of the causal half."""
    tunings = [PrefillTuning(*x, 1 << 30) for x in (
        (128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2),
        (128, 32, 8, 3), (128, 64, 4, 2), (64, 32, 4, 3),
    )]  # fmt: skip
    for name, arguments in (
        ("prefill 1x8192 32/8", ((32, 8), [8192], [0])),
        ("prefill 8x1024 32/8", ((32, 8), [1024] * 8, [0] * 8)),
        ("chunk 64x64 after 4096 32/8", ((32, 8), [64] * 64, [4096] * 64, 256)),
        ("prefill 1x8192 16/8", ((16, 8), [8192], [0])),
    ):
        case = make_case(*arguments)
        for tuning in tunings:
            case.backend._prefill = tuning
            case.backend._tile_rows = tuning.rows
            case.backend._tile_tokens = tuning.rows // case.backend._group
            rebuild(case)

            def timed(case: Any = case) -> tuple[float, float]:
                seconds = graph_seconds([case.run], 10)
                return seconds, case.flop / seconds / 1e12

            yield attempt(name, str(tuning)[14:-1], timed)
        yield from sdpa_rows(name, case)


def sdpa_rows(name: str, case: Any) -> Iterator[Row]:
    """torch's own attention on the same prompts, where they are fresh and equally long."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    queries = [int(x) for x in case.batch.query_start[1:] - case.batch.query_start[:-1]]
    if len(set(queries)) > 1 or int(case.batch.positions[0]):
        return
    q, k, v = (
        x.view(len(queries), queries[0], *x.shape[1:]).transpose(1, 2)
        for x in (case.q, case.k, case.v)
    )
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):

        def timed(backend: Any = backend) -> tuple[float, float]:
            def call() -> object:
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

            seconds = graph_seconds([call], 10)
            return seconds, case.flop / seconds / 1e12

        yield attempt(name, str(backend), timed)


def coded_rows() -> Iterator[Row]:
    """TB/s of keys and values in 8 bits, by Triton's kernel and by the vendor's instructions."""
    cases: list[tuple[str, Any]] = [
        ("256x1024 32/8", ((32, 8), [1] * 256, [1023] * 256)),
        ("128 skewed 32/8", ((32, 8), [1] * 128, [16 * i + 15 for i in range(128)])),
        ("8x1024 32/8", ((32, 8), [1] * 8, [1023] * 8)),
        ("1x640 32/8", ((32, 8), [1], [639])),
        ("256x1024 16/8", ((16, 8), [1] * 256, [1023] * 256)),
    ]
    for name, arguments in cases:
        for kv_dtype in ("fp8", "int8"):
            for backend in (PagedAttention, CodedAttention):
                case = make_case(*arguments, kv_dtype=kv_dtype, backend=backend)

                def timed(case: Any = case) -> tuple[float, float]:
                    seconds = graph_seconds([case.run] * 4)
                    return seconds, case.kv_bytes / seconds / 1e12

                yield attempt(f"decode {kv_dtype} {name}", backend.__name__, timed)


def expert_rows() -> Iterator[Row]:
    """TB/s of the chosen experts' weights, Qwen3-30B-A3B's, beside the reference on all of them."""
    experts, choices, size, inner = 128, 8, 2048, 768
    w13 = torch.randn(experts, 2 * inner, size, device="cuda", dtype=torch.bfloat16)
    w2 = torch.randn(experts, size, inner, device="cuda", dtype=torch.bfloat16)
    for tokens in (1, 8, 64, 512, 4096):
        x = torch.randn(tokens, size, device="cuda", dtype=torch.bfloat16)
        ids = torch.rand(tokens, experts, device="cuda").argsort(-1)[:, :choices].int()
        shares = torch.full(ids.shape, 1 / choices, device="cuda")
        read = len(ids.unique()) * 3 * inner * size * 2
        for name, run in (("fused_moe", fused_moe), ("every expert", every_expert)):

            def timed(run: Any = run, *given: Any, read: int = read) -> tuple[float, float]:
                seconds = graph_seconds([lambda: run(*given)] * 2)
                return seconds, read / seconds / 1e12

            given = x, w13, w2, shares, ids, "silu"
            yield attempt(f"experts, {tokens} tokens", name, partial(timed, run, *given))


def stream_rows_times() -> Iterator[Row]:
    """TB/s of weights for one row, against torch."""
    shapes = {
        "0.6b qkv": (4096, 1024), "0.6b o": (1024, 2048), "0.6b gate-up": (6144, 1024),
        "0.6b down": (1024, 3072), "8b qkv": (6144, 4096), "8b o": (4096, 4096),
        "8b down": (4096, 14336), "8b gate-up": (28672, 4096),
    }  # fmt: skip
    unrolled = ((8, 1024, 4, 0), (16, 1024, 4, 0), (4, 1024, 4, 0), (16, 1024, 8, 0),
                (4, 1024, 2, 0), (8, 512, 2, 0))  # fmt: skip
    staged = ((8, 1024, 4, 3), (8, 1024, 4, 4), (8, 512, 4, 4), (16, 512, 4, 4), (4, 1024, 4, 4),
              (4, 2048, 4, 3), (16, 1024, 8, 3))  # fmt: skip
    for name, (outputs, inputs) in shapes.items():
        copies = max(2, 300_000_000 // (2 * outputs * inputs))
        weights = [
            torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
            for _ in range(min(copies, 24))
        ]
        x = torch.randn(1, inputs, device="cuda", dtype=torch.bfloat16)
        out = torch.empty(1, outputs, device="cuda", dtype=torch.bfloat16)

        def torch_time(x: Any = x, weights: Any = weights) -> tuple[float, float]:
            seconds = graph_seconds([lambda w=w: F.linear(x, w) for w in weights])
            return seconds, weights[0].numel() * 2 / seconds / 1e12

        yield attempt(name, "torch", torch_time)
        for rows, cols, warps, stages in unrolled if inputs <= 3072 else staged:
            if cols > inputs:
                continue

            def timed(
                rows: int = rows, cols: int = cols, warps: int = warps, stages: int = stages,
                x: Any = x, weights: Any = weights, out: Any = out,
                size: tuple[int, int] = (outputs, inputs),
            ) -> tuple[float, float]:  # fmt: skip
                def call(w: Any) -> None:
                    stream_rows[(triton.cdiv(size[0], rows),)](
                        x, w, w, out, size[1], size[1], size[0], size[0], INPUTS=size[1], M=1,
                        ROWS=rows, COLS=cols, BIAS=False, STAGES=stages, num_warps=warps,
                    )  # fmt: skip

                seconds = graph_seconds([lambda w=w: call(w) for w in weights])
                return seconds, weights[0].numel() * 2 / seconds / 1e12

            yield attempt(name, f"rows {rows} cols {cols} warps {warps} stages {stages}", timed)


def small_rows() -> Iterator[Row]:
    """Kernels whose time is mostly their launch."""
    for rows, vocab in ((1, 151936), (256, 151936)):
        logits = torch.randn(rows, vocab, device="cuda")
        size = logits.numel() * 4

        def ours(logits: Any = logits, size: int = size) -> tuple[float, float]:
            seconds = graph_seconds([lambda: argmax(logits)] * 4)
            return seconds, size / seconds / 1e12

        def theirs(logits: Any = logits, size: int = size) -> tuple[float, float]:
            seconds = graph_seconds([lambda: logits.max(dim=-1)] * 4)
            return seconds, size / seconds / 1e12

        yield attempt(f"argmax {rows}x{vocab}", "ours", ours)
        yield attempt(f"argmax {rows}x{vocab}", "torch max", theirs)
    for rows in (1, 256):
        x, w = (torch.randn(rows, 1024, device="cuda").bfloat16() for _ in range(2))
        scale = torch.ones(1024, device="cuda")

        def norm(x: Any = x, w: Any = w, scale: Any = scale) -> tuple[float, float]:
            return graph_seconds([lambda: add_rms_norm(x, w, scale, 1e-6)] * 50), 0.0

        yield attempt(f"add_rms_norm {rows}x1024", "ours", norm)
    x, w = (torch.randn(n, 1024, device="cuda", dtype=torch.bfloat16) for n in (256, 151936))
    yield attempt("logits 256x1024x151936", "linear, float",
                  lambda: (graph_seconds([lambda: F.linear(x, w).float()]), 0.0))  # fmt: skip
    yield attempt("logits 256x1024x151936", "mm to float32",
                  lambda: (graph_seconds([lambda: torch.mm(x, w.t(), out_dtype=torch.float32)]),
                           0.0))  # fmt: skip
