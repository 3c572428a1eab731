"""Bias, penalties and masks in one launch each."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from inferplane.ops.sampling import SamplingTensors
from inferplane_triton.device.logits import add_bias, copy_masked, penalise

__all__ = ["process"]

_BLOCK = 2048
_ENTRIES = 256


def process(logits: Tensor, sampling: SamplingTensors) -> Tensor:
    """f32[R,V] after bias, then penalties, then bitmask; `logits` itself where there are none.

    The mask comes with the copy: nothing that follows makes -inf finite.
    """
    mask, biased, seen = sampling.bitmask, sampling.bias_rows, sampling.seen_rows
    if mask is None and biased is None and seen is None:
        return logits
    rows, vocabulary = logits.shape
    out = torch.empty((rows, vocabulary), dtype=logits.dtype, device=logits.device)
    copy_masked[(rows, triton.cdiv(vocabulary, _BLOCK))](
        logits, logits if mask is None else mask, out, logits.stride(0),
        0 if mask is None else mask.shape[1],
        VOCAB=vocabulary, MASKED=mask is not None, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    if biased is not None and len(biased):
        add_bias[(triton.cdiv(len(biased), _ENTRIES),)](
            out, biased, sampling.bias_ids, sampling.bias_values, len(biased),
            VOCAB=vocabulary, BLOCK=_ENTRIES, num_warps=4,
        )  # fmt: skip
    if seen is not None and len(seen):
        penalise[(triton.cdiv(len(seen), _ENTRIES),)](
            out, seen, sampling.seen_ids, sampling.seen_counts, sampling.penalties, len(seen),
            VOCAB=vocabulary, BLOCK=_ENTRIES, num_warps=4,
        )  # fmt: skip
    return out
