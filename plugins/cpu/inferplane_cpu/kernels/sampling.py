"""The op `sample/1` without sorting the vocabulary: the best candidates nearly always decide.

Reads the device freely, since the device is the host. Draws exactly what the reference draws.
R rows, V vocabulary, C best candidates looked at.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inferplane.ops.reference import sampling as reference
from inferplane.ops.reference.sampling import LogprobTensors, argmax, best_ids, process, score
from inferplane.ops.sampling import SamplingTensors
from inferplane.sampling.philox import uniforms
from inferplane_cpu.compiler import kernels
from inferplane_cpu.compiler.capture import Symbol

__all__ = ["sample"]

_CANDIDATES = 256


def sample(logits: Tensor, sampling: SamplingTensors) -> tuple[Tensor, LogprobTensors | None]:
    """ids i32[R] of f32[R,V] logits, -1 where a row failed, and log-probabilities if asked."""
    if type(logits) is Symbol:  # a program ends with the plain choice; other rows come here again
        return kernels.argmax(logits.recording, logits), None
    ids = argmax(logits)
    if not sampling.plain:
        processed = process(logits, sampling)
        ids = torch.where(ids < 0, ids, argmax(processed)) if processed is not logits else ids
        if sampling.temperature is not None:
            warm = ((sampling.temperature > 0) & (ids >= 0)).nonzero()[:, 0]
            if len(warm):
                ids[warm] = _draw(processed, sampling, warm)
    if sampling.logprob_rows is None:
        return ids, None
    rows = sampling.logprob_rows
    return ids, score(logits[rows], ids[rows].clamp(min=0), sampling.num_logprobs)


def _draw(processed: Tensor, sampling: SamplingTensors, warm: Tensor) -> Tensor:
    """i32[len(warm)]: the tokens of these rows, all of them finite and with a temperature."""
    temperature, top_k, top_p, min_p = (
        x[warm]
        for x in (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
        if x is not None
    )
    scaled = processed[warm] / temperature[:, None]
    count = min(_CANDIDATES, scaled.shape[1])
    order = best_ids(scaled, count)
    best = scaled.gather(1, order).double()
    weights = (best - best[:, :1]).exp()
    place = torch.arange(count)
    cut = (top_k > 0) & (top_k <= count)
    weights = weights.masked_fill(cut[:, None] & (place >= top_k[:, None]), 0.0)
    sums = weights.cumsum(1)
    total = sums[:, -1].clone()
    whole = ~cut if count < scaled.shape[1] else torch.zeros_like(cut)
    if whole.any():
        total[whole] = (scaled[whole].double() - best[whole, :1]).exp_().sum(1)
    # A row is decided by its candidates when what it keeps, or where it falls, lies among them.
    beyond = whole & (top_k > 0)
    if sampling.truncated:
        nucleus = top_p < 1.0
        reach = (sums < (top_p.double() * total)[:, None]).sum(1)
        beyond |= nucleus & whole & (reach >= count)
        weights = weights.masked_fill(nucleus[:, None] & (place > reach[:, None]), 0.0)
        beyond |= (min_p > 0) & whole & ~nucleus & (weights[:, -1] >= min_p)
        weights = weights.masked_fill(weights < min_p.double()[:, None], 0.0)
        sums = weights.cumsum(1)
        kept = nucleus | (min_p > 0)
        total = torch.where(kept, sums[:, -1], total)
        whole &= ~kept
    uniform = _uniforms(sampling, warm)
    chosen = (sums <= (uniform * total)[:, None]).sum(1)
    beyond |= whole & (chosen >= count)
    ids = order.gather(1, chosen.clamp(max=count - 1)[:, None])[:, 0].to(torch.int32)
    rest = beyond.nonzero()[:, 0]
    if len(rest):
        ids[rest] = _sorted_draw(processed, sampling, warm[rest])
    return ids


def _uniforms(sampling: SamplingTensors, rows: Tensor) -> Tensor:
    assert sampling.seed is not None and sampling.position is not None
    seed, position = (x[rows].numpy() for x in (sampling.seed, sampling.position))
    return torch.from_numpy(uniforms(seed.view(np.uint64), position.view(np.uint64)))


def _sorted_draw(processed: Tensor, sampling: SamplingTensors, rows: Tensor) -> Tensor:
    """The reference's whole-row draw."""
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "position")
    picked = {name: getattr(sampling, name)[rows] for name in names}
    some = SamplingTensors(**picked, greedy=False, truncated=sampling.truncated)
    return reference.sample(processed[rows], some)[0]
