"""The oracle sampler: what every device's sampler must draw, in numpy, one row at a time.

It also serves `StepBatch.host_rows`, where a parameter is beyond the device's own sampler.
Legend: R rows, V vocabulary, L logprobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inferplane.interfaces import Array, Logprobs, Ragged, SamplingBatch
from inferplane.sampling.philox import uniforms

__all__ = ["Drawn", "draw", "log_softmax", "process_logits", "score", "take_rows"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token a row. A row in `failed` (not finite, or nothing allowed) holds token 0."""

    token_ids: Array
    """i32[R]"""
    logprobs: Logprobs | None
    """Of the raw logits; None when no row asked."""
    failed: Array
    """i32 rows whose logits held NaN or +inf, or had no candidate left."""


def draw(logits: Array, sampling: SamplingBatch) -> Drawn:
    """Draw one token for each row of f32[R,V] logits.

    Bias, penalties and bitmask come first. Temperature 0 is argmax with ties to the lowest id.
    Else candidates stand in the order (logit / temperature descending, id ascending); top-k cuts
    them; of the softmax over what is left, top-p keeps the smallest prefix that reaches it and
    min-p drops what is below `min_p` times the best; the token is the first whose cumulative
    weight exceeds `u * total`, u = Philox(seed, position). Sums are float64.
    """
    processed = process_logits(logits, sampling)
    bad = np.isnan(logits).any(axis=1) | np.isposinf(logits).any(axis=1)
    bad |= np.isnan(processed).any(axis=1) | ~(processed > -np.inf).any(axis=1)
    token_ids = np.where(bad, 0, processed.argmax(axis=1)).astype(np.int32)
    warm = np.flatnonzero((sampling.temperature > 0) & ~bad)
    if len(warm):
        numbers = uniforms(sampling.seed[warm], sampling.position[warm])
        for row, u in zip(warm.tolist(), numbers.tolist(), strict=True):
            token_ids[row] = _draw_row(processed[row], sampling, row, u)
    return Drawn(token_ids, _logprobs(logits, token_ids, sampling), np.flatnonzero(bad))


def process_logits(logits: Array, sampling: SamplingBatch) -> Array:
    """A copy of f32[R,V] after bias, then penalties, then bitmask.

    Repetition divides positive and multiplies other logits of every token seen, prompt included;
    then frequency * count and presence are taken off those that occur in the output.
    """
    out = logits.astype(np.float32, copy=True)
    with np.errstate(invalid="ignore"):  # rows that are not finite fail; they must not warn
        if sampling.bias is not None:
            np.add.at(out, (_row_of(sampling.bias), sampling.bias.ids), sampling.bias.values)
        if sampling.penalties is not None and sampling.seen is not None:
            _penalise(out, sampling.penalties, sampling.seen)
    if sampling.bitmask is not None:
        bits = np.unpackbits(
            np.ascontiguousarray(sampling.bitmask, dtype="<u4").view(np.uint8),
            axis=1,
            bitorder="little",
        )
        out[bits[:, : out.shape[1]] == 0] = -np.inf
    return out


def log_softmax(logits: Array) -> Array:
    """f64 log-probabilities along the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    out: Array = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return out


def score(logits: Array, ids: Array, num_logprobs: int) -> Logprobs:
    """Log-probability and rank of `ids` i32[N] under f32[N,V], then the `num_logprobs` best.

    The best are ordered (logit descending, id ascending); ties share the better rank.
    """
    rows = np.arange(len(ids))
    values = log_softmax(logits)
    best = np.empty((len(ids), 1 + num_logprobs), np.int32)
    best[:, 0] = ids
    for row in rows.tolist() if num_logprobs else ():
        best[row, 1:] = _order(logits[row].astype(np.float32), num_logprobs)
    ranks = 1 + (logits > logits[rows, ids][:, None]).sum(axis=1)
    return Logprobs(
        np.take_along_axis(values, best, axis=1).astype(np.float32), best, ranks.astype(np.int32)
    )


def take_rows(sampling: SamplingBatch, rows: Array) -> SamplingBatch:
    """The sampling parameters of some rows, in the order asked."""
    return replace(
        sampling,
        temperature=sampling.temperature[rows],
        top_k=sampling.top_k[rows],
        top_p=sampling.top_p[rows],
        min_p=sampling.min_p[rows],
        seed=sampling.seed[rows],
        position=sampling.position[rows],
        num_logprobs=sampling.num_logprobs[rows],
        penalties=None if sampling.penalties is None else sampling.penalties[rows],
        seen=_take_ragged(sampling.seen, rows),
        bias=_take_ragged(sampling.bias, rows),
        bitmask=None if sampling.bitmask is None else sampling.bitmask[rows],
    )


def _draw_row(logits_V: Array, sampling: SamplingBatch, row: int, u: float) -> int:
    scaled_V = logits_V / sampling.temperature[row]
    order = _order(scaled_V, int(sampling.top_k[row]))
    weights = np.exp(scaled_V[order].astype(np.float64) - float(scaled_V[order[0]]))
    top_p, min_p = float(sampling.top_p[row]), float(sampling.min_p[row])
    if top_p < 1.0:
        sums = np.cumsum(weights)
        weights = weights[: 1 + int(np.searchsorted(sums, top_p * sums[-1]))]
    if min_p > 0.0:
        weights = weights[weights >= min_p]
    sums = np.cumsum(weights)
    return int(order[np.searchsorted(sums, u * sums[-1], "right")])


def _order(logits_V: Array, most: int) -> Array:
    """Ids by (logit descending, id ascending), at least the first `most` (0 = all)."""
    ids = np.arange(len(logits_V), dtype=np.uint64)
    if 0 < most < len(logits_V):
        edge = np.partition(logits_V, len(logits_V) - most)[len(logits_V) - most]
        ids = np.flatnonzero(logits_V >= edge).astype(np.uint64)
    # A float32 whose sign bit is flipped (all bits, if negative) sorts as an unsigned integer;
    # inverted and joined with the id, one fast unstable sort gives the exact order.
    bits = (logits_V[ids] + np.float32(0.0)).view(np.uint32)  # + 0.0: -0.0 ties with 0.0
    sign = np.uint32(0x80000000)
    rising = np.where(bits & sign, ~bits, bits | sign)
    keys = np.sort((~rising).astype(np.uint64) << np.uint64(32) | ids)
    order: Array = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return order[:most] if most else order


def _penalise(out: Array, penalties: Array, seen: Ragged) -> None:
    rows, ids, counts = _row_of(seen), seen.ids, seen.values.astype(np.float32)
    presence, frequency, repetition = (penalties[rows, i] for i in range(3))
    values = out[rows, ids]
    values = np.where(values > 0, values / repetition, values * repetition)
    out[rows, ids] = values - frequency * counts - presence * (counts > 0)


def _logprobs(logits: Array, token_ids: Array, sampling: SamplingBatch) -> Logprobs | None:
    most = int(sampling.num_logprobs.max(initial=-1))
    return None if most < 0 else score(np.nan_to_num(logits), token_ids, most)


def _row_of(ragged: Ragged) -> Array:
    rows: Array = np.repeat(np.arange(len(ragged.start) - 1), np.diff(ragged.start))
    return rows


def _take_ragged(ragged: Ragged | None, rows: Array) -> Ragged | None:
    if ragged is None:
        return None
    counts = np.diff(ragged.start)[rows]
    start = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    at = np.repeat(ragged.start[:-1][rows], counts) + np.arange(start[-1])
    at -= np.repeat(start[:-1], counts)
    return Ragged(start, ragged.ids[at], ragged.values[at])
