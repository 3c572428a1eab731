"""sample/1: argmax in two launches, draws by the nearest elements in three; no row is sorted.

Launches for rows that those do not decide end at once where there are none.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane.interfaces import Capabilities, Kernel, OpSite, Reasons
from inferplane.ops.reference.sampling import LogprobTensors, score
from inferplane.ops.sampling import SamplingTensors
from inferplane_triton.device.draw import gather_rows, refine_rows, settle_rows, weigh_rows
from inferplane_triton.device.near import draw_near, gather_near, weigh_near
from inferplane_triton.device.sampling import argmax_parts, argmax_rows
from inferplane_triton.device.search import search_rows
from inferplane_triton.kernels.logits import process
from inferplane_triton.tuning import draw_tuning

__all__ = ["SAMPLE", "argmax", "decide", "draw", "near", "sample"]

_BLOCK = 2048
_SPAN = 4 * _BLOCK
"""Logits of one program."""
_SCORED = 32
"""Rows whose log-probabilities are taken at once."""
_WEIGHED = 512
"""Logits that are weighed at once for the nearest elements."""
_LEVELS = 16
"""Depths at which a row is weighed first; `device.draw` knows them."""


def sample(logits: Tensor, sampling: SamplingTensors) -> tuple[Tensor, LogprobTensors | None]:
    """Ids i32[R] for f32[R,V] logits, -1 where a row is not finite; drawn as the core says."""
    ids = argmax(logits)
    if sampling.plain:
        return ids, None
    processed = process(logits, sampling)
    if processed is not logits:
        ids = torch.where(ids < 0, ids, argmax(processed))
    if not sampling.greedy:
        ids = draw(processed, ids, sampling)
    if sampling.logprob_rows is None:
        return ids, None
    return ids, _scored(logits, ids, sampling.logprob_rows, sampling.num_logprobs)


def argmax(logits: Tensor) -> Tensor:
    """i32[R]: the lowest id of the largest logit of f32[R,V]; -1 where that is not finite."""
    rows, vocabulary = logits.shape
    splits = triton.cdiv(vocabulary, _SPAN)
    parts = torch.empty((rows, splits), dtype=torch.int64, device=logits.device)
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    argmax_parts[(rows, splits)](
        logits, parts, logits.stride(0), VOCAB=vocabulary, SPAN=_SPAN, BLOCK=_BLOCK, num_warps=8
    )
    argmax_rows[(rows,)](
        parts, out, SPLITS=splits, BLOCK=triton.next_power_of_2(splits), num_warps=1
    )
    return out


def draw(logits: Tensor, best: Tensor, sampling: SamplingTensors) -> Tensor:
    """Ids i32[R]: `best` where a row is greedy or -1, else drawn by temperature, top-k, top-p,
    min-p and one uniform by (seed, position), as the core's reference draws."""
    ids, tuning = near(logits, best, sampling), draw_tuning()
    decide(logits, ids, best, sampling)
    search_rows[(logits.shape[0],)](
        logits, ids, best, *_given(sampling), logits.stride(0),
        VOCAB=logits.shape[1], BLOCK=tuning.searched, UNROLL=tuning.unrolled,
        num_warps=tuning.warps,
    )  # fmt: skip
    return ids


def near(logits: Tensor, best: Tensor, sampling: SamplingTensors) -> Tensor:
    """As `draw`, but -2 where the elements nearest to the best or around the draw do not decide."""
    rows, vocabulary = logits.shape
    tuning, device, stride = draw_tuning(), logits.device, logits.stride(0)
    most, splits = tuning.candidates, int(triton.cdiv(vocabulary, tuning.span))
    counts = torch.empty((rows, splits, 8), dtype=torch.int32, device=device)
    masses = torch.empty((rows, splits, 9), dtype=torch.float64, device=device)
    candidates = torch.empty((rows, most), dtype=torch.int64, device=device)
    given = _given(sampling)
    weigh_near[(rows, splits)](
        logits, best, sampling.temperature, counts, masses, stride,
        VOCAB=vocabulary, SPAN=tuning.span, BLOCK=_WEIGHED, num_warps=4,
    )  # fmt: skip
    sizes = {"VOCAB": vocabulary, "SPLITS": splits, "MOST": most}
    sizes["SPLIT_PAD"] = int(triton.next_power_of_2(splits))
    gather_near[(rows, splits)](
        logits, best, *given, counts, masses, candidates, stride,
        **sizes, SPAN=tuning.span, BLOCK=_BLOCK, num_warps=8,
    )  # fmt: skip
    ids = torch.empty_like(best)
    draw_near[(rows,)](
        logits, ids, best, *given, counts, masses, candidates, stride, **sizes, num_warps=4
    )
    return ids


def decide(logits: Tensor, ids: Tensor, best: Tensor, sampling: SamplingTensors) -> None:
    """As `draw` for the rows of `ids` i32[R] that are -2; they stay so where no few candidates hold
    the answer, as among many equal logits."""
    rows, vocabulary = logits.shape
    tuning, device, stride = draw_tuning(), logits.device, logits.stride(0)
    splits = int(triton.cdiv(vocabulary, tuning.span))
    given = _given(sampling)
    temperature, top_k, top_p, min_p, seed, position = given
    widths = (_LEVELS, tuning.bins, tuning.bins)
    counts = [torch.empty((rows, splits, n), dtype=torch.int32, device=device) for n in widths]
    masses = [torch.empty((rows, splits, n), dtype=torch.float64, device=device) for n in widths]
    heavies = torch.empty((rows, splits), dtype=torch.float64, device=device)
    opened, first, second, last = torch.empty((4, rows, 8), dtype=torch.float64, device=device)
    candidates = torch.empty((rows, tuning.candidates), dtype=torch.int64, device=device)
    cursors = torch.empty(rows, dtype=torch.int32, device=device)
    weighed = {"VOCAB": vocabulary, "SPAN": tuning.span, "UNROLL": tuning.weighed_unrolled}
    sizes = {"SPLITS": splits, "SPLIT_PAD": int(triton.next_power_of_2(splits))}
    sizes |= {"BINS": tuning.bins, "MOST": tuning.candidates}
    weigh_rows[(rows, splits)](
        logits, ids, best, temperature, min_p, counts[0], masses[0], heavies, stride, **weighed,
        BLOCK=tuning.weighed, num_warps=8,
    )  # fmt: skip
    for turn in range(1 + sampling.truncated):
        for level, before, after in ((0, opened, first), (1, first, second)):
            refine_rows[(rows, splits)](
                logits, ids, best, temperature, top_k, top_p, seed, position, counts[level],
                masses[level], heavies, before, after, counts[level + 1], masses[level + 1],
                cursors, stride, **weighed, **sizes, BLOCK=tuning.weighed, LEVELS=level == 0,
                ASK=level + turn == 0, num_warps=8,
            )  # fmt: skip
        gather_rows[(rows, splits)](
            logits, best, temperature, counts[2], masses[2], second, last, cursors, candidates,
            stride, VOCAB=vocabulary, SPAN=tuning.span, BLOCK=_BLOCK, **sizes, num_warps=8,
        )  # fmt: skip
        settle_rows[(rows,)](
            logits, ids, best, *given, last, opened, candidates, stride,
            VOCAB=vocabulary, MOST=tuning.candidates, num_warps=4,
        )  # fmt: skip


def _given(sampling: SamplingTensors) -> tuple[Tensor | None, ...]:
    """How each row is drawn, in the order in which kernels take it."""
    return (
        sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.seed,
        sampling.position,
    )  # fmt: skip


def _scored(logits: Tensor, ids: Tensor, rows: Tensor, num_logprobs: int) -> LogprobTensors:
    """Some rows after another: whole copies of all would be the most memory a step takes.

    Ids are kept inside the vocabulary, which those of a rehearsed step need not be.
    """
    most = logits.shape[1] - 1
    parts = [
        score(logits[some], ids[some].clamp(0, most), num_logprobs)
        for some in torch.split(rows, _SCORED)
    ]
    return LogprobTensors(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _supports(site: OpSite, caps: Capabilities) -> Reasons:
    if site.dtype != "float32":
        return (f"draws from float32 logits, not {site.dtype}",)
    return ()


SAMPLE = Kernel(sample, _supports)
