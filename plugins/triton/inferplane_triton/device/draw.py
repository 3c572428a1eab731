"""Drawing the token that a sorted draw would draw, without sorting the row.

Elements stand in the order of their keys: scaled logit falling, id rising. A row is weighed at
eight distances below its best; the nearest elements that may decide (1,024 at most) are gathered
and only they are sorted. A row whose answer lies elsewhere (a flat distribution, a cut far down) is
searched by radix: a pass divides the keys that are left by the first digit in which they differ,
so the digits that all share and those behind the last one cost nothing. Weights are exp(x - best)
in float64, and no sum depends on the order in which programs run. R rows, V vocabulary, S splits of
a row.
"""

import triton
import triton.language as tl

from inferplane_triton.device.sampling import order_key


@triton.jit
def level_margin(level):
    """How far below the best level 0..7 reaches: 1/4, 1, 9/4 ... 16, exact in float32."""
    return (level + 1) * (level + 1) * 0.25


@triton.jit
def philox_uniform(seed, position):
    """f64 in [0, 1) by Philox4x32-10 (Salmon et al., SC 2011): the top 24 bits of word 0.

    `seed` holds the bits of a u64, `position` is an i64 of at least 0.
    """
    c0, c1 = (position & 0xFFFFFFFF).to(tl.uint32), (position >> 32).to(tl.uint32)
    c2, c3 = c0 * 0, c0 * 0
    k0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(10):
        left, right = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (right >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (left >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = right.to(tl.uint32), left.to(tl.uint32)
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return (c0 >> 8).to(tl.float64) * 5.9604644775390625e-08  # 2 ** -24


@triton.jit
def key_value(key):
    """The float32 whose `order_key` is the high word of `key`."""
    high = (key >> 32).to(tl.uint32)
    return tl.where(high >> 31 == 1, high ^ 0x80000000, high ^ 0xFFFFFFFF).to(
        tl.float32, bitcast=True
    )


@triton.jit
def load_scaled(row_ptr, temperature, at, VOCAB: tl.constexpr):
    """Logits over the temperature, rounded as the reference rounds; -inf beyond the row."""
    x = tl.load(row_ptr + at, mask=at < VOCAB, other=float("-inf"))
    return tl.div_rn(x, tl.zeros_like(x) + temperature)


@triton.jit
def element_key(x, at):
    """u64 that falls in the order of a draw."""
    low = (0xFFFFFFFF - at.to(tl.uint32)).to(tl.uint64)
    return order_key(x).to(tl.uint64) << 32 | low


@triton.jit
def load_peak(row_ptr, best, temperature):
    """The row's largest scaled logit, rounded as the others are."""
    return tl.div_rn(tl.load(row_ptr + best), temperature)


@triton.jit
def weigh_rows(logits, bests, temperatures, counts, masses, stride, VOCAB: tl.constexpr,
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
def gather_rows(logits, bests, temperatures, top_ks, top_ps, min_ps, seeds, positions, counts,
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
def draw_rows(logits, ids, temperatures, top_ks, top_ps, min_ps, seeds, positions, counts, masses,
              candidates, stride, VOCAB: tl.constexpr, SPLITS: tl.constexpr,
              SPLIT_PAD: tl.constexpr, MOST: tl.constexpr):  # fmt: skip
    """Program r draws row r from its candidates, or stores -2; greedy rows keep theirs."""
    row = tl.program_id(0).to(tl.int64)
    temperature, best = tl.load(temperatures + row), tl.load(ids + row)
    if (temperature <= 0) | (best < 0):
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


@triton.jit
def bound_keys(row_ptr, temperature, cut, top, VOCAB: tl.constexpr, BLOCK: tl.constexpr,
               UNROLL: tl.constexpr):  # fmt: skip
    """(least, largest) key of a row from `cut` to `top`; there is one."""
    least = tl.full([BLOCK], 0xFFFFFFFFFFFFFFFF, tl.uint64)
    largest = tl.zeros([BLOCK], tl.uint64)
    for begin in range(0, VOCAB, BLOCK * UNROLL):
        for part in tl.static_range(UNROLL):
            at = begin + part * BLOCK + tl.arange(0, BLOCK)
            key = element_key(load_scaled(row_ptr, temperature, at, VOCAB), at)
            counts = (key >= cut) & (key <= top) & (at < VOCAB)
            least = tl.where(counts & (key < least), key, least)
            largest = tl.where(counts & (key > largest), key, largest)
    return tl.min(least, axis=0), tl.max(largest, axis=0)


@triton.jit
def lightest_key(row_ptr, temperature, peak, min_p, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """The least key of a row whose element weighs `min_p` or more; the best does."""
    least = tl.full([BLOCK], 0xFFFFFFFFFFFFFFFF, tl.uint64)
    for begin in range(0, VOCAB, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, at, VOCAB)
        key, weight = element_key(x, at), tl.exp(x.to(tl.float64) - peak.to(tl.float64))
        least = tl.where((at < VOCAB) & (weight >= min_p) & (key < least), key, least)
    return tl.min(least, axis=0)


@triton.jit
def differing_digit(low, high):
    """Bits to the right of the first hexadecimal digit in which two keys differ; they do."""
    unlike = low ^ high
    lone = unlike ^ (
        unlike & (unlike >> 1)
    )  # keeps the first bit and lets no rounding carry into it
    exponent = (lone.to(tl.float64).to(tl.uint64, bitcast=True) >> 52) - 1023
    return exponent & 0xFFFFFFFFFFFFFFFC


@triton.jit
def search_key(row_ptr, temperature, peak, number, share, cut, exceeds, VOCAB: tl.constexpr,
               BLOCK: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """The largest key down to which weight reaches (or `exceeds`) `share` of the whole weight.

    With `number` > 0: down to which so many elements lie. Only elements with keys from `cut`
    count. Each pass divides what is left by the first digit in which its least and largest key
    differ.
    """
    digit = tl.arange(0, 16)
    top, above = cut | 0xFFFFFFFFFFFFFFFF, share * 0.0
    goal = tl.where(number > 0, number.to(tl.float64), -1.0)
    cut, top = bound_keys(row_ptr, temperature, cut, top, VOCAB, BLOCK, UNROLL)
    while cut < top:
        shift = differing_digit(cut, top)
        parts = tl.zeros([BLOCK, 16], tl.float64)  # threads meet once a pass, not at every block
        for begin in range(0, VOCAB, BLOCK * UNROLL):
            for part in tl.static_range(UNROLL):
                at = begin + part * BLOCK + tl.arange(0, BLOCK)
                x = load_scaled(row_ptr, temperature, at, VOCAB)
                key, weight = element_key(x, at), tl.exp(x.to(tl.float64) - peak.to(tl.float64))
                weight = tl.where(number > 0, 1.0, weight)
                counts = (key >= cut) & (key <= top)
                mine = tl.where(counts, (key >> shift & 15).to(tl.int32), 16)
                parts += tl.where(mine[:, None] == digit[None, :], weight[:, None], 0.0)
        found = tl.sum(parts, axis=0)
        whole = share * tl.sum(found, axis=0)
        whole = tl.where(exceeds, whole, tl.maximum(whole, 1e-300))  # one is kept in any case
        goal = tl.where(goal < 0, whole, goal)  # of the first pass, which sees every element
        reached = above + tl.cumsum(found, axis=0, reverse=True)
        enough = (reached > goal) | ((reached == goal) & (exceeds == 0))
        enough = enough & (found > 0)  # sums that are rounded otherwise choose no empty digit
        lowest = (cut >> shift & 15).to(tl.int32)  # holds what rounding keeps from being enough
        chosen = tl.max(tl.where(enough, digit, lowest), axis=0)
        above = tl.sum(tl.where(digit == chosen, reached - found, 0.0), axis=0)
        cut = (cut >> shift & 0xFFFFFFFFFFFFFFF0 | chosen.to(tl.uint64)) << shift
        top = cut | (1 << shift) - 1
        cut, top = bound_keys(row_ptr, temperature, cut, top, VOCAB, BLOCK, UNROLL)
    return cut


@triton.jit
def search_rows(logits, ids, bests, temperatures, top_ks, top_ps, min_ps, seeds, positions, stride,
                VOCAB: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Program r decides row r if `draw_rows` could not; `bests` holds each row's best id.

    Three searches in turn, each among what the last one left: top-k, top-p, the draw.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(ids + row) != -2:
        return
    temperature = tl.load(temperatures + row)
    row_ptr = logits + row * stride
    peak = load_peak(row_ptr, tl.load(bests + row), temperature)
    cut = (row * 0).to(tl.uint64)
    for turn in range(3):
        top_k, share = tl.load(top_ks + row), tl.load(top_ps + row).to(tl.float64)
        needed = ((turn == 1) & (share < 1.0)) | ((turn == 0) & (top_k > 0) & (top_k < VOCAB))
        if turn == 2:
            needed = turn == 2
            share = philox_uniform(tl.load(seeds + row), tl.load(positions + row))
            min_p = tl.load(min_ps + row).to(tl.float64)
            if min_p > 0:
                lightest = lightest_key(row_ptr, temperature, peak, min_p, VOCAB, BLOCK)
                cut = tl.where(cut > lightest, cut, lightest)
        if needed:
            number = tl.where(turn == 0, top_k, 0)
            cut = search_key(row_ptr, temperature, peak, number, share, cut, turn == 2, VOCAB,
                             BLOCK, UNROLL)  # fmt: skip
    tl.store(ids + row, (0xFFFFFFFF - (cut & 0xFFFFFFFF)).to(tl.int32))
