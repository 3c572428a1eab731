"""What the op `sample/1` takes: one step's sampling as flat arrays, the same on host and device.

R sampled rows, N entries of all rows, V vocabulary, M rows that want log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from inferplane.interfaces import Array, Ragged, SamplingBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SamplingPlan", "SamplingTensors", "plan_sampling"]


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What the host knows of a step's sampling before any logit exists."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    """For the upload; names are the fields of SamplingTensors. Empty: every row is plain argmax."""
    num_logprobs: int = -1
    """Best alternatives wanted by the most demanding row; -1 = nobody asks for log-probabilities.
    """
    greedy: bool = True
    """Every row has temperature 0."""
    truncated: bool = False
    """Some row has top-k, top-p or min-p on."""


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """The second argument of `sample/1`: a SamplingPlan whose arrays are on the device."""

    temperature: Tensor | None = None
    """f32[R]; None, here and in the next five: every row is greedy."""
    top_k: Tensor | None = None
    """i32[R]"""
    top_p: Tensor | None = None
    """f32[R]"""
    min_p: Tensor | None = None
    """f32[R]"""
    seed: Tensor | None = None
    """i64[R]: the bits of the u64."""
    position: Tensor | None = None
    """i64[R]"""
    bias_rows: Tensor | None = None
    """i32[N], with `bias_ids` i32[N] and `bias_values` f32[N]; None = no bias."""
    bias_ids: Tensor | None = None
    bias_values: Tensor | None = None
    penalties: Tensor | None = None
    """f32[R,3] presence, frequency, repetition; comes with the next three."""
    seen_rows: Tensor | None = None
    """i32[N], with `seen_ids` i32[N]; each (row, id) occurs once."""
    seen_ids: Tensor | None = None
    seen_counts: Tensor | None = None
    """f32[N]: occurrences in the output, 0 = in the prompt only."""
    bitmask: Tensor | None = None
    """i32[R, ceil(V/32)]: the bits of the u32."""
    logprob_rows: Tensor | None = None
    """i32[M]: rows that want log-probabilities; None = none."""
    num_logprobs: int = -1
    greedy: bool = True
    truncated: bool = False

    @property
    def plain(self) -> bool:
        """Whether the step is argmax of the logits and nothing else."""
        changed = self.bias_rows, self.seen_rows, self.bitmask, self.logprob_rows
        return self.greedy and all(tensor is None for tensor in changed)


def plan_sampling(sampling: SamplingBatch | None, num_rows: int) -> SamplingPlan:
    """Flat arrays of `sampling`, padded with greedy rows to `num_rows`.

    An all-greedy step without extras yields no array at all, and one without log-probabilities,
    bias, penalties or masks yields none for them.
    """
    if sampling is None:
        return SamplingPlan()
    extra = num_rows - len(sampling.temperature)
    arrays: dict[str, Array] = {}
    greedy = not sampling.temperature.any()
    if not greedy:
        arrays = {name: _padded(getattr(sampling, name), extra) for name in _ROW_FIELDS}
        arrays["seed"] = _padded(sampling.seed.view(np.int64), extra)
        arrays["position"] = _padded(sampling.position.view(np.int64), extra)
    if sampling.bias is not None:
        arrays |= _flat("bias", "values", sampling.bias)
    if sampling.penalties is not None and sampling.seen is not None:
        arrays["penalties"] = _padded(sampling.penalties, extra)
        arrays |= _flat("seen", "counts", sampling.seen)
    if sampling.bitmask is not None:
        arrays["bitmask"] = _padded(sampling.bitmask.view(np.int32), extra, fill=-1)
    num_logprobs = int(sampling.num_logprobs.max(initial=-1))
    if num_logprobs >= 0:
        arrays["logprob_rows"] = np.flatnonzero(sampling.num_logprobs >= 0).astype(np.int32)
    truncated = not greedy and bool(
        sampling.top_k.any() or (sampling.top_p < 1).any() or sampling.min_p.any()
    )
    return SamplingPlan(arrays, num_logprobs, greedy, truncated)


_ROW_FIELDS = ("temperature", "top_k", "top_p", "min_p")


def _padded(values: Array, extra: int, fill: int = 0) -> Array:
    if not extra:
        return values
    padding = np.full((extra, *values.shape[1:]), fill, values.dtype)
    return np.concatenate((values, padding))


def _flat(name: str, value_name: str, ragged: Ragged) -> dict[str, Array]:
    rows = np.repeat(np.arange(len(ragged.start) - 1, dtype=np.int32), np.diff(ragged.start))
    return {
        f"{name}_rows": rows,
        f"{name}_ids": ragged.ids,
        f"{name}_{value_name}": ragged.values.astype(np.float32),
    }
