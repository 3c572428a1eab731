"""Drawing a step's tokens: our kernels beside the core's sorted reference, time and agreement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from inferplane.ops.reference.sampling import sample as reference
from inferplane.ops.sampling import SamplingTensors
from inferplane_triton.kernels.sampling import sample

__all__ = ["time_drawing"]

_VOCABULARY = 151936
_ROWS = (1, 32, 256)
_KINDS: dict[str, tuple[float, float, int, float, float]] = {
    "temperature 1": (3.0, 1.0, 0, 1.0, 0.0),
    "top-p 0.95": (3.0, 1.0, 0, 0.95, 0.0),
    "top-k 20, top-p 0.95, 0.6": (3.0, 0.6, 20, 0.95, 0.0),
    "min-p 0.05": (3.0, 1.0, 0, 1.0, 0.05),
    "flat, temperature 1": (1.0, 1.0, 0, 1.0, 0.0),
    "flat, top-p 0.95": (1.0, 1.0, 0, 0.95, 0.0),
    "flat, top-k 20": (1.0, 1.0, 20, 1.0, 0.0),
    "flat, top-k 5000": (1.0, 1.0, 5000, 1.0, 0.0),
}
"""Spread of the logits, then temperature, top-k, top-p, min-p."""


def time_drawing(left_s: float, device: str = "cuda") -> dict[str, Any]:
    """ "kind, rows" -> {us, reference_us, ratio, differ}: wall time of a call until it is done.

    `differ` counts the tokens of 256 new rows that are not the reference's.
    """
    began = time.perf_counter()
    found: dict[str, Any] = {}
    for rows in _ROWS:
        for kind, (spread, *how) in _KINDS.items():
            if time.perf_counter() - began > left_s:
                print("-- the rest of drawing left out: the budget is used up", flush=True)
                return found
            logits = torch.randn(rows, _VOCABULARY, device=device) * spread
            given = _given(rows, how, device)
            mine = _seconds(lambda x=logits, g=given: sample(x, g))  # type: ignore[misc]
            theirs = _seconds(lambda x=logits, g=given: reference(x, g))  # type: ignore[misc]
            row = {
                "us": mine * 1e6,
                "reference_us": theirs * 1e6,
                "ratio": theirs / mine,
                "differ": _different(spread, how, device),
            }
            found[f"{kind}, {rows}"] = row
            print(
                f"draw {kind:28} {rows:4} rows {row['us']:9.1f} us, sorted {theirs * 1e6:9.1f} us "
                f"({row['ratio']:5.2f} times), {row['differ']} of 256 tokens differ",
                flush=True,
            )
    return found


def _given(rows: int, how: list[float], device: str) -> SamplingTensors:
    temperature, top_k, top_p, min_p = how
    return SamplingTensors(
        temperature=torch.full((rows,), temperature, device=device),
        top_k=torch.full((rows,), int(top_k), dtype=torch.int32, device=device),
        top_p=torch.full((rows,), top_p, device=device),
        min_p=torch.full((rows,), min_p, device=device),
        seed=torch.randint(2**62, (rows,), device=device),
        position=torch.arange(rows, device=device),
        greedy=False,
        truncated=bool(top_k) or top_p < 1.0 or min_p > 0.0,
    )


def _seconds(call: Callable[[], object], times: int = 20) -> float:
    """The median, the device being idle before and after."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(times):
        _wait()
        began = time.perf_counter()
        call()
        _wait()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[times // 2]


def _different(spread: float, how: list[float], device: str) -> int:
    logits = torch.randn(256, _VOCABULARY, device=device) * spread
    given = _given(256, how, device)
    return int((sample(logits, given)[0] != reference(logits, given)[0]).sum())


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
