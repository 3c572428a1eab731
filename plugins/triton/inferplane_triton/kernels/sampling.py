"""sample/1: argmax rows in two launches; other draws through the core's reference."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane.ops.reference.sampling import LogprobTensors
from inferplane.ops.reference.sampling import sample as reference
from inferplane.ops.sampling import SamplingTensors
from inferplane_triton.device.sampling import argmax_parts, argmax_rows

__all__ = ["argmax", "sample"]

_BLOCK = 2048
_SPAN = 4 * _BLOCK
"""Logits of one program."""


def sample(logits: Tensor, sampling: SamplingTensors) -> tuple[Tensor, LogprobTensors | None]:
    """Ids i32[R] for f32[R,V] logits, -1 where a row is not finite; drawn as the core says."""
    if sampling.plain:
        return argmax(logits), None
    return reference(logits, sampling)


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
