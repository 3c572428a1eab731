"""Host microseconds until a decode step's arrays lie packed for the upload; needs no GPU.

    python benchmarks/gpu/step_inputs.py [--context N] [--running 1,8,256]

What the engine's step adds to it without an executor: benchmarks/engine_overhead.py.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

import numpy as np

from inferplane.execution.attention_plan import AttentionPart
from inferplane.execution.inputs import InputBuilder
from inferplane.interfaces import AttentionSpec, Bucket, StepBatch
from inferplane.shapes import TokenGrid
from inferplane_triton.attention.paged import PagedAttention
from inferplane_triton.gpu.upload import InputLayout

_BLOCK = 16


class _Host:
    """What the attention backend asks of a device."""

    torch_device = "cpu"

    def prompt_attention(self, head_dim: int, dtype: str) -> None:
        """None: no vendor's kernel for prompts."""


def main() -> int:
    """Print the fastest of twenty rounds for each number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=700)
    parser.add_argument("--running", default="1,8,256")
    args = parser.parse_args()
    spec = AttentionSpec(16, 8, 128, 128, "bfloat16", "auto", 0.09, _BLOCK)
    part = AttentionPart(spec, PagedAttention(spec, _Host()), "nhd", ("layer",), False)
    builder = InputBuilder((part,), TokenGrid(8192, 256), _BLOCK, 16384, lambda bucket: False)
    for running in map(int, args.running.split(",")):
        batch, bucket = _decodes(running, args.context), Bucket("mixed", running, running)
        first = builder.build(batch, bucket).arrays
        layout = InputLayout(first, "cpu")
        pinned = np.zeros(len(layout.buffer), np.uint8)

        def prepare(
            batch: StepBatch = batch,
            bucket: Bucket = bucket,
            layout: InputLayout = layout,
            pinned: np.ndarray = pinned,
        ) -> None:
            arrays = builder.build(batch, bucket).arrays
            layout.place(arrays)
            layout.pack(arrays, pinned)
            layout.tensors(arrays)

        fastest = min(_seconds(prepare) for _ in range(20))
        print(f"{running:4} sequences of {args.context} tokens: {fastest * 1e6:6.1f} µs a step")
    return 0


def _seconds(call: Callable[[], None], times: int = 50) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def _decodes(count: int, context: int) -> StepBatch:
    """One new token of each sequence, drawn by the step before."""
    each = np.arange(count, dtype=np.int32)
    return StepBatch(
        step=1,
        num_decodes=count,
        token_ids=np.zeros(count, np.int32),
        token_source=each,
        positions=np.full(count, context - 1, np.int32),
        query_start=np.arange(count + 1, dtype=np.int32),
        seq_lens=np.full(count, context, np.int32),
        lanes=each,
        block_tables=(np.ones((count, -(-context // _BLOCK)), np.int32),),
        slots=(np.full(count, _BLOCK, np.int32),),
        sampled=each,
    )


if __name__ == "__main__":
    raise SystemExit(main())
