"""Draws that the nearest elements decide: the most there are, and three short launches.

A row is weighed at eight distances below its best; the nearest elements that may decide are
gathered and only they are sorted. A row whose answer lies elsewhere (a flat distribution, a cut far
down) is left to `draw.py`. Weights are exp(x - best) in float64, and no sum depends on the order in
which programs run. R rows, V vocabulary, S splits of a row.
"""

import triton
import triton.language as tl

from inferplane_triton.device.draw import (
    element_key,
    key_value,
    load_peak,
    load_scaled,
    philox_uniform,
)


@triton.jit
def level_margin(level):
    """How far below the best level 0..7 reaches: 1/4, 1, 9/4 ... 16, exact in float32."""
    return (level + 1) * (level + 1) * 0.25


@triton.jit
def weigh_near(logits, bests, temperatures, counts, masses, stride, VOCAB: tl.constexpr,
               SPAN: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Program (row, split): counts i32[R,S,8] and masses f64[R,S,9] of SPAN logits.

    Entry l is of the elements down to margin l, the ninth mass of all.
    """
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature, best = tl.load(temperatures + row), tl.load(bests + row)
    if (temperature <= 0) | (best < 0):
        return
    row_ptr = logits + row * stride
    peak = load_peak(row_ptr, best, temperature)
    level = tl.arange(0, 8)
    count, mass = tl.zeros([8], tl.int32), tl.zeros([8], tl.float64)
    whole = tl.zeros([BLOCK], tl.float64)
    for begin in range(0, SPAN, BLOCK):
        at = split * SPAN + begin + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, at, VOCAB)
        weight = tl.exp(x.to(tl.float64) - peak.to(tl.float64))
        whole += weight
        inside = x[:, None] >= (peak - level_margin(level))[None, :]
        count += tl.sum(inside.to(tl.int32), axis=0)
        mass += tl.sum(tl.where(inside, weight[:, None], 0.0), axis=0)
    place = row * tl.num_programs(1) + split
    tl.store(counts + place * 8 + level, count)
    tl.store(masses + place * 9 + level, mass)
    tl.store(masses + place * 9 + 8, tl.sum(whole, axis=0))


@triton.jit
def find_band(row, counts, masses, top_k, top_p, min_p, uniform, SPLITS: tl.constexpr,
              SPLIT_PAD: tl.constexpr, MOST: tl.constexpr, VOCAB: tl.constexpr):  # fmt: skip
    """(level above, level, number, mass above, mass of the row): elements to gather.

    They lie from just below margin `level above` (-1 = the best) down to margin `level`; number 0 =
    no band decides. A row that is cut needs its best elements, another those around its draw.
    """
    split, level = tl.arange(0, SPLIT_PAD)[:, None], tl.arange(0, 8)[None, :]
    place, held = row * SPLITS + split, (split < SPLITS) & (level >= 0)
    count = tl.sum(tl.load(counts + place * 8 + level, mask=held, other=0), axis=0)
    mass = tl.sum(tl.load(masses + place * 9 + level, mask=held, other=0.0), axis=0)
    one = tl.arange(0, SPLIT_PAD)
    last = masses + (row * SPLITS + one) * 9 + 8
    total = tl.sum(tl.load(last, mask=one < SPLITS, other=0.0), axis=0)
    level = tl.arange(0, 8)
    if ((top_k > 0) & (top_k < VOCAB)) | (top_p < 1.0) | (min_p > 0.0):
        above = -1
        below = tl.sum((count <= MOST).to(tl.int32), axis=0) - 1
    else:
        below = tl.sum((mass <= uniform * total).to(tl.int32), axis=0)
        above = below - 1
    number = tl.sum(tl.where(level == below, count, 0), axis=0)
    number -= tl.sum(tl.where(level == above, count, 0), axis=0)
    start = tl.sum(tl.where(level == above, mass, 0.0), axis=0)
    return above, below, tl.where(number <= MOST, number, 0), start, total


@triton.jit
def gather_near(logits, bests, temperatures, top_ks, top_ps, min_ps, seeds, positions, counts,
                masses, candidates, stride, VOCAB: tl.constexpr, SPAN: tl.constexpr,
                BLOCK: tl.constexpr, SPLITS: tl.constexpr, SPLIT_PAD: tl.constexpr,
                MOST: tl.constexpr):  # fmt: skip
    """Program (row, split) stores its part of the band's keys at its place in i64[R,MOST]."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature, best = tl.load(temperatures + row), tl.load(bests + row)
    if (temperature <= 0) | (best < 0):
        return
    row_ptr = logits + row * stride
    peak = load_peak(row_ptr, best, temperature)
    uniform = philox_uniform(tl.load(seeds + row), tl.load(positions + row))
    above, below, number, _, _ = find_band(
        row, counts, masses, tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row),
        uniform, SPLITS, SPLIT_PAD, MOST, VOCAB,
    )  # fmt: skip
    if number == 0:
        return
    before = tl.arange(0, SPLIT_PAD)
    earlier = counts + (row * SPLITS + before) * 8
    place = tl.sum(tl.load(earlier + below, mask=before < split, other=0), axis=0)
    if above >= 0:
        place -= tl.sum(tl.load(earlier + above, mask=before < split, other=0), axis=0)
    for begin in range(0, SPAN, BLOCK):
        at = split * SPAN + begin + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, at, VOCAB)
        kept = x >= peak - level_margin(below)
        if above >= 0:
            kept = kept & (x < peak - level_margin(above))
        found = kept.to(tl.int32)
        offset = place + tl.cumsum(found, axis=0) - found
        key = element_key(x, at).to(tl.int64, bitcast=True)
        tl.store(candidates + row * MOST + offset, key, mask=kept & (offset < MOST))
        place += tl.sum(found, axis=0)


@triton.jit
def draw_near(logits, ids, bests, temperatures, top_ks, top_ps, min_ps, seeds, positions, counts,
              masses, candidates, stride, VOCAB: tl.constexpr, SPLITS: tl.constexpr,
              SPLIT_PAD: tl.constexpr, MOST: tl.constexpr):  # fmt: skip
    """Program r draws row r from its candidates, or stores -2; greedy rows get their best."""
    row = tl.program_id(0).to(tl.int64)
    temperature, best = tl.load(temperatures + row), tl.load(bests + row)
    if (temperature <= 0) | (best < 0):
        tl.store(ids + row, best)
        return
    peak = load_peak(logits + row * stride, best, temperature)
    top_k = tl.load(top_ks + row)
    top_p, min_p = tl.load(top_ps + row).to(tl.float64), tl.load(min_ps + row).to(tl.float64)
    uniform = philox_uniform(tl.load(seeds + row), tl.load(positions + row))
    above, below, count, start, total = find_band(
        row, counts, masses, top_k, tl.load(top_ps + row), tl.load(min_ps + row), uniform,
        SPLITS, SPLIT_PAD, MOST, VOCAB,
    )  # fmt: skip
    at = tl.arange(0, MOST)
    held = tl.load(candidates + row * MOST + at, mask=at < count, other=0)
    # signed order of flipped top bits is unsigned order
    key = tl.sort(held ^ (-(2**63)), descending=True) ^ (-(2**63))
    key = key.to(tl.uint64, bitcast=True)
    weight = tl.exp(key_value(key).to(tl.float64) - peak.to(tl.float64))
    limited = (top_k > 0) & (top_k < VOCAB)
    cut = limited & (top_k <= count)
    weight = tl.where((at < count) & ((at < top_k) | (top_k <= 0)), weight, 0.0)
    total = tl.where(cut, tl.sum(weight, axis=0), total)
    # closed: whatever may be drawn is a candidate
    closed = cut | (start + tl.sum(weight, axis=0) >= total)
    if top_p < 1.0:
        sums = tl.cumsum(weight, axis=0)
        closed = closed | (tl.max(sums, axis=0) >= top_p * total)
        weight = tl.where((sums - weight < top_p * total) | (at == 0), weight, 0.0)
    if min_p > 0.0:
        # what lies below the band weighs less than this
        closed = closed | (min_p > tl.exp(-level_margin(below).to(tl.float64)) * 1.000001)
        weight = tl.where(weight >= min_p, weight, 0.0)
    sums = start + tl.cumsum(weight, axis=0)
    reached = tl.max(sums, axis=0)
    goal = uniform * tl.where(closed, reached, total)
    decided = (count > 0) & (cut | (limited == 0)) & (reached > goal)
    decided = decided & (closed | ((top_p >= 1.0) & (min_p <= 0.0)))
    chosen = tl.max(tl.where((sums > goal) & (weight > 0.0), key, 0), axis=0)
    token = (0xFFFFFFFF - (chosen & 0xFFFFFFFF)).to(tl.int32)
    tl.store(ids + row, tl.where(decided, token, -2))
