"""The op `sample/1` in plain torch: it draws what `inferplane.sampling.host_sampler` draws.

Static shapes and no host reads, so it is correct everywhere and fast nowhere: it sorts whole rows.
R rows, V vocabulary, N entries, M rows that want log-probabilities, L alternatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inferplane.ops.sampling import SamplingTensors

__all__ = ["LogprobTensors", "argmax", "best_ids", "philox_uniforms", "process", "sample", "score"]

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class LogprobTensors(NamedTuple):
    """Log-probabilities; column 0 = the token asked, then the best ones."""

    values: Tensor
    """f32[M,1+L]"""
    ids: Tensor
    """i32[M,1+L]"""
    ranks: Tensor
    """i32[M]; 1 = most likely, ties share the better rank."""


def sample(logits: Tensor, sampling: SamplingTensors) -> tuple[Tensor, LogprobTensors | None]:
    """Draw ids i32[R] from f32[R,V] logits; -1 = the row is not finite or has no candidate.

    Bias, penalties and bitmask come first; then temperature, top-k, top-p, min-p and one Philox
    uniform by (seed, position), as `host_sampler.draw` says. Log-probabilities are of the raw
    logits, for `logprob_rows` alone.
    """
    ids = argmax(logits)
    if not sampling.plain:
        processed = process(logits, sampling)
        ids = torch.where(ids < 0, ids, argmax(processed))
        if not sampling.greedy:
            assert sampling.temperature is not None
            drawn = _draw(processed, sampling)
            ids = torch.where((sampling.temperature > 0) & (ids >= 0), drawn, ids)
    if sampling.logprob_rows is None:
        return ids, None
    rows = sampling.logprob_rows
    return ids, score(logits[rows], ids[rows].clamp(min=0), sampling.num_logprobs)


def argmax(logits: Tensor) -> Tensor:
    """i32[R]: the lowest id of the largest logit; -1 where that is NaN or infinite."""
    best, ids = logits.max(dim=-1)
    return torch.where(best.isfinite(), ids, -1).to(torch.int32)


def process(logits: Tensor, sampling: SamplingTensors) -> Tensor:
    """f32[R,V] after bias, then penalties, then bitmask; `logits` itself where there are none."""
    if sampling.bias_rows is not None:
        at = (sampling.bias_rows.long(), _long(sampling.bias_ids))
        logits = logits.index_put(at, _some(sampling.bias_values), accumulate=True)
    if sampling.seen_rows is not None:
        logits = _penalised(logits, sampling)
    if sampling.bitmask is not None:
        bits = torch.arange(32, device=logits.device, dtype=torch.int32)
        allowed = (sampling.bitmask[:, :, None] >> bits) & 1
        allowed = allowed.flatten(1)[:, : logits.shape[1]]
        logits = logits.masked_fill(allowed == 0, -torch.inf)
    return logits


def philox_uniforms(seed: Tensor, position: Tensor) -> Tensor:
    """f64[R] in [0, 1) by Philox4x32-10 (Salmon et al., SC 2011): the top 24 bits of word 0.

    `seed` i64[R] holds the bits of a u64, `position` i64[R] is not negative. Products are split at
    16 bits, so that no step leaves the range of i64.
    """
    zero = torch.zeros_like(position)
    c0, c1, c2, c3 = position & _LOW, (position >> 32) & _LOW, zero, zero
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return (c0 >> 8).double() * 2.0**-24


def score(logits: Tensor, ids: Tensor, num_logprobs: int) -> LogprobTensors:
    """Log-probability and rank of ids i32[M] under f32[M,V], then the `num_logprobs` best."""
    chosen = ids.long()[:, None]
    asked = logits.gather(1, chosen)
    ranks = 1 + (logits > asked).sum(1, dtype=torch.int32)
    if num_logprobs > 0:
        chosen = torch.cat((chosen, best_ids(logits, num_logprobs)), 1)
    values = logits.gather(1, chosen) - logits.logsumexp(-1, keepdim=True)
    return LogprobTensors(values, chosen.to(torch.int32), ranks)


def best_ids(logits: Tensor, count: int) -> Tensor:
    """i64[R,count]: ids by (logit descending, id ascending) of f32[R,V]; V at least `count`.

    `topk` alone returns ties in any order. A float's bits, turned so that they sort as an integer,
    joined with the inverted id, have no ties.
    """
    bits = (logits + 0.0).view(torch.int32)  # + 0.0: -0.0 ties with 0.0
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    ids = torch.arange(logits.shape[1], device=logits.device)
    return (rising | (_LOW - ids)).topk(count, dim=-1).indices


def _draw(processed: Tensor, sampling: SamplingTensors) -> Tensor:
    temperature = _some(sampling.temperature)
    scaled = processed / temperature.masked_fill(temperature == 0, 1.0)[:, None]
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    weights = (values.double() - values[:, :1].double()).exp()
    place = torch.arange(values.shape[1], device=values.device)
    top_k = _long(sampling.top_k)[:, None]
    weights = weights.masked_fill((top_k > 0) & (place >= top_k), 0.0)
    if sampling.truncated:
        sums = weights.cumsum(-1)
        before = sums.roll(1, -1).masked_fill(place == 0, -1.0)
        top_p = _some(sampling.top_p).double()[:, None]
        weights = weights.masked_fill((top_p < 1.0) & (before >= top_p * sums[:, -1:]), 0.0)
        weights = weights.masked_fill(weights < _some(sampling.min_p).double()[:, None], 0.0)
    sums = weights.cumsum(-1)
    uniform = philox_uniforms(_some(sampling.seed), _some(sampling.position))
    target = uniform[:, None] * sums[:, -1:]
    chosen = (sums <= target).sum(-1, keepdim=True).clamp(max=values.shape[1] - 1)
    return order.gather(1, chosen)[:, 0].to(torch.int32)


def _penalised(logits: Tensor, sampling: SamplingTensors) -> Tensor:
    rows, ids = _long(sampling.seen_rows), _long(sampling.seen_ids)
    presence, frequency, repetition = _some(sampling.penalties)[rows].unbind(1)
    counts = _some(sampling.seen_counts)
    values = logits[rows, ids]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values = values - frequency * counts - presence * (counts > 0)
    return logits.index_put((rows, ids), values)


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b, both below 2^32."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _LOW


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # fields of SamplingTensors come in sets
    return tensor


def _long(tensor: Tensor | None) -> Tensor:
    return _some(tensor).long()
