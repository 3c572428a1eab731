"""The two ceilings of a card, measured: device copy and a large bf16 matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

__all__ = ["graph_seconds", "probe_ceilings"]


def graph_seconds(calls: Sequence[Callable[[], object]], repeats: int = 20) -> float:
    """Median device seconds of one call, captured in turn so that nothing waits for the host.

    Give several calls over different buffers, together larger than the cache.
    """
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / len(calls))
    return sorted(times)[len(times) // 2]


def probe_ceilings() -> dict[str, float]:
    """TB/s of a copy (bytes read and written) and TFLOP/s at 8192 x 8192 x 8192, random data."""
    found = {"copy_tb_s": round(_copy_tb_s(), 2), "bf16_tflop_s": round(_product_tflop_s(), 1)}
    torch.cuda.empty_cache()
    return found


def _copy_tb_s() -> float:
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    # a kernel: a graph would give a copy node to the copy engine, which is slower
    seconds = graph_seconds([lambda: torch.add(source, 0.0, out=target)], 10)
    return 2 * 4 * 2**30 / seconds / 1e12


def _product_tflop_s() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / graph_seconds([lambda: a @ b], 10) / 1e12
