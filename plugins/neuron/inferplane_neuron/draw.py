"""Drawing inside a program: what compilers for the chip know, top-k and sums, and nothing else.

B rows, V vocabulary, K candidates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inferplane.interfaces import Array, SamplingBatch
from inferplane.sampling.philox import uniforms

__all__ = ["COLUMNS", "draw_ids", "draw_rows"]

COLUMNS = ("temperature", "top_k", "top_p", "min_p", "uniform")
"""What a program takes for each row."""


def draw_ids(logits: Tensor, greedy: Tensor, draws: Tensor, most: int) -> Tensor:
    """i32[B] of f32[B,V]: rows of temperature 0 keep i32[B] `greedy`, others draw.

    draws f32[B,5] = `COLUMNS`; `uniform` in [0, 1) chooses. Candidates are the `most` best, so a
    row's top_k is at most that; then top-p, then min-p, with the meaning they have in
    `inferplane.sampling.host_sampler`.
    """
    temperature, top_k, top_p, min_p, uniform = draws[:, :, None].unbind(1)
    best, ids = logits.topk(min(most, logits.shape[1]), dim=-1)
    warm = temperature > 0
    heat = torch.where(warm, temperature, 1.0)
    weights = ((best - best[:, :1]) / heat).exp()
    place = torch.arange(best.shape[1], device=logits.device, dtype=torch.float32)
    weights = torch.where(place < top_k, weights, 0.0)
    sums = weights.cumsum(-1)
    keeps = (top_p >= 1.0) | (sums - weights < top_p * sums[:, -1:])
    weights = torch.where(keeps & (weights >= min_p), weights, 0.0)
    sums = weights.cumsum(-1)
    passed = (sums <= uniform * sums[:, -1:]).sum(-1, keepdim=True)
    drawn = ids.gather(1, passed.clamp(max=ids.shape[1] - 1))[:, 0].to(torch.int32)
    return torch.where(warm[:, 0] & (greedy >= 0), drawn, greedy)


def draw_rows(sampling: SamplingBatch | None, sampled: Array, rows: int) -> Array:
    """`COLUMNS` f32[rows,5] of a bucket, from the R sampled ones; all others are greedy.

    Chance is drawn here, by each row's (seed, position): the chip has no counters of 64 bits.
    """
    out = np.zeros((rows, len(COLUMNS)), np.float32)
    if sampling is not None:
        out[sampled, :4] = np.stack([getattr(sampling, name) for name in COLUMNS[:4]], 1)
        out[sampled, 4] = uniforms(sampling.seed, sampling.position)
    return out
