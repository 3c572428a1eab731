"""Drawing the token that a sorted draw would draw, without sorting the row.

Elements stand in the order of their keys: scaled logit falling, id rising. A row asks one to three
questions in turn, each for a place in that order: where top-k cuts (1), where top-p cuts what that
leaves (2), where the draw falls in what is kept (3); a cut by min-p is known as a mass. Programs
weigh their parts of a row down to 16 depths below its best, and the depths between which the answer
lies are divided into bins and weighed again, twice at most. Then the elements between two
neighbours are few, and only they are gathered and sorted. Rows that ask for a cut far from the best
do this a second time, for the draw.

Weights are exp(x - best) in float64, and no sum depends on the order in which programs run. Depths
are integers of 2^-24, so every kernel agrees on who lies between two of them. R rows, V vocabulary,
S splits of a row. What is known of a row is 8 numbers of float64: question (0 = nothing is open),
goal (a rank or a mass), mass that min-p keeps, depth above and depth below what is left, count and
mass above it, count of it.
"""

import triton
import triton.language as tl

from inferplane_triton.device.sampling import order_key


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
def depth_below(x, peak):
    """i32: how far x lies below the best; 2^30 for all that is 64 or more below it."""
    return tl.minimum((peak - x) * 16777216.0, 1073741824.0).to(tl.int32)


@triton.jit
def level_depths():
    """i32[16]: 1/4, 3/8, 1/2, 3/4 ... 48; what lies below the last weighs nothing in float64."""
    level = tl.arange(0, 16)
    return (2 + (level & 1) << (level >> 1)) * 2097152  # 2 ** 21


@triton.jit
def weigh_span(row_ptr, first, temperature, peak, min_p, above, depths, VOCAB: tl.constexpr,
               SPAN: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
               BINS: tl.constexpr):  # fmt: skip
    """(counts i32[BINS], masses f64[BINS], mass that min-p keeps) of SPAN logits from `first`.

    Entry b is of the elements below depth `above` down to depths[b].
    """
    # a thread holds all bins of its logits: threads meet once, not at every block
    counts, masses = tl.zeros([BINS, BLOCK], tl.int32), tl.zeros([BINS, BLOCK], tl.float64)
    heavy = tl.zeros([BLOCK], tl.float64)
    for begin in range(0, SPAN, BLOCK * UNROLL):
        for part in tl.static_range(UNROLL):
            at = first + begin + part * BLOCK + tl.arange(0, BLOCK)
            x = load_scaled(row_ptr, temperature, at, VOCAB)
            weight = tl.exp(x.to(tl.float64) - peak.to(tl.float64))
            heavy += tl.where(weight >= min_p, weight, 0.0)
            depth = depth_below(x, peak)
            depth = tl.where(depth > above, depth, 0x7FFFFFFF)
            inside = depth[None, :] <= depths[:, None]
            counts += inside.to(tl.int32)
            masses += tl.where(inside, weight[None, :], 0.0)
    return tl.sum(counts, axis=1), tl.sum(masses, axis=1), tl.sum(heavy, axis=0)


@triton.jit
def weigh_rows(logits, ids, bests, temperatures, min_ps, counts, masses, heavies, stride,
               VOCAB: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
               UNROLL: tl.constexpr):  # fmt: skip
    """Program (row, split) weighs SPAN logits down to the levels: counts i32[R,S,16], masses
    f64[R,S,16], and f64[R,S] of what min-p keeps; of rows whose id is -2."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(ids + row) != -2:
        return
    temperature, best = tl.load(temperatures + row), tl.load(bests + row)
    row_ptr = logits + row * stride
    peak = load_peak(row_ptr, best, temperature)
    min_p = tl.load(min_ps + row).to(tl.float64)
    count, mass, heavy = weigh_span(
        row_ptr, split * SPAN, temperature, peak, min_p, -1, level_depths(), VOCAB, SPAN, BLOCK,
        UNROLL, 16,
    )  # fmt: skip
    place = row * tl.num_programs(1) + split
    level = tl.arange(0, 16)
    tl.store(counts + place * 16 + level, count)
    tl.store(masses + place * 16 + level, mass)
    tl.store(heavies + place, heavy)


@triton.jit
def add_splits(parts, row, SPLITS: tl.constexpr, SPLIT_PAD: tl.constexpr, BINS: tl.constexpr):
    """[BINS]: the sum of a row's splits in [R,S,BINS]."""
    split, place = tl.arange(0, SPLIT_PAD)[:, None], tl.arange(0, BINS)[None, :]
    held = (split < SPLITS) & (place >= 0)
    return tl.sum(
        tl.load(parts + (row * SPLITS + split) * BINS + place, mask=held, other=0), axis=0
    )


@triton.jit
def first_question(row, top_ks, top_ps, seeds, positions, counts, masses, heavies,
                   SPLITS: tl.constexpr, SPLIT_PAD: tl.constexpr):  # fmt: skip
    """(question, goal, mass that min-p keeps) of a row that is weighed at the levels."""
    last = tl.arange(0, 16) == 15
    counts = add_splits(counts, row, SPLITS, SPLIT_PAD, 16)
    masses = add_splits(masses, row, SPLITS, SPLIT_PAD, 16)
    whole = tl.sum(tl.where(last, masses, 0.0), axis=0)
    heavy = tl.sum(add_splits(heavies, row, SPLITS, SPLIT_PAD, 1), axis=0)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    uniform = philox_uniform(tl.load(seeds + row), tl.load(positions + row))
    limited = (top_k > 0) & (top_k < tl.sum(tl.where(last, counts, 0), axis=0))
    question = tl.where(limited, 1, tl.where(top_p < 1.0, 2, 3))
    goal = tl.where(top_p < 1.0, top_p.to(tl.float64) * whole, uniform * heavy)
    goal = tl.where(limited, top_k.to(tl.float64), goal)
    return question, goal, heavy


@triton.jit
def narrow(question, goal, above, count_above, mass_above, depths, counts, masses,
           BINS: tl.constexpr, MOST: tl.constexpr):  # fmt: skip
    """(depth above, depth below, count above, mass above, count) of the bin with the answer; of
    all from the best down to it where those are few."""
    place = tl.arange(0, BINS)
    counts, masses = counts.to(tl.float64) + count_above, masses + mass_above
    reached = tl.where(question == 1, counts, masses)
    enough = (reached > goal) | ((reached == goal) & (question != 3))
    # the last one holds what rounding keeps from being enough
    chosen = tl.min(tl.where(enough, place, BINS - 1), axis=0)
    below = tl.sum(tl.where(place == chosen, depths, 0), axis=0)
    count = tl.sum(tl.where(place == chosen, counts, 0.0), axis=0)
    before = place == tl.where(count <= MOST, -1, chosen - 1)
    above = tl.where(chosen > 0, tl.sum(tl.where(before, depths, 0), axis=0), above)
    above = tl.where(count <= MOST, -1, above)
    kept = tl.where((chosen > 0) | (count <= MOST), 0.0, 1.0)
    count_above = count_above * kept + tl.sum(tl.where(before, counts, 0.0), axis=0)
    mass_above = mass_above * kept + tl.sum(tl.where(before, masses, 0.0), axis=0)
    return above, below, count_above, mass_above, count - count_above


@triton.jit
def load_known(known, row):
    """A row's 8 numbers of f64[R,8]; question and depths as i32."""
    at = known + row * 8
    question, above, below = tl.load(at), tl.load(at + 3), tl.load(at + 4)
    return (
        question.to(tl.int32), tl.load(at + 1), tl.load(at + 2), above.to(tl.int32),
        below.to(tl.int32), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7),
    )  # fmt: skip


@triton.jit
def store_known(known, row, question, goal, heavy, above, below, count_above, mass_above, count):
    """What `load_known` loads."""
    at = known + row * 8
    tl.store(at, question)
    tl.store(at + 1, goal)
    tl.store(at + 2, heavy)
    tl.store(at + 3, above)
    tl.store(at + 4, below)
    tl.store(at + 5, count_above)
    tl.store(at + 6, mass_above)
    tl.store(at + 7, count)


@triton.jit
def bin_depths(above, below, BINS: tl.constexpr):
    """i32[BINS]: the depths that divide what lies between two."""
    width = (below - above + BINS - 1) // BINS
    return tl.minimum(above + width * (tl.arange(0, BINS) + 1), below)


@triton.jit
def refine_rows(logits, ids, bests, temperatures, top_ks, top_ps, seeds, positions, counts, masses,
                heavies, before, after, bin_counts, bin_masses, cursors, stride,
                VOCAB: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
                SPLITS: tl.constexpr, SPLIT_PAD: tl.constexpr, BINS: tl.constexpr,
                MOST: tl.constexpr, LEVELS: tl.constexpr, ASK: tl.constexpr):  # fmt: skip
    """Program (row, split) narrows row by what was weighed, and weighs its part of what is left.

    LEVELS: `counts` and `masses` are of the levels, else of BINS bins. ASK: the row's first
    question, else that of `before`. Nothing is weighed where MOST elements or fewer are left.
    """
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if ASK:  # noqa: SIM108 - which of them is decided while compiling
        asks = tl.load(ids + row) == -2
    else:
        asks = tl.load(before + row * 8) > 0
    if asks == 0:
        if split == 0:
            tl.store(after + row * 8, 0.0)
        return
    if LEVELS:
        if ASK:
            question, goal, heavy = first_question(
                row, top_ks, top_ps, seeds, positions, counts, masses, heavies, SPLITS, SPLIT_PAD
            )
        else:
            question = tl.load(before + row * 8).to(tl.int32)
            goal, heavy = tl.load(before + row * 8 + 1), tl.load(before + row * 8 + 2)
        above, below, count_above, mass_above, count = narrow(
            question, goal, -1, goal * 0.0, goal * 0.0, level_depths(),
            add_splits(counts, row, SPLITS, SPLIT_PAD, 16),
            add_splits(masses, row, SPLITS, SPLIT_PAD, 16), 16, MOST,
        )  # fmt: skip
    else:
        question, goal, heavy, above, below, count_above, mass_above, count = narrow_bins(
            before, row, counts, masses, SPLITS, SPLIT_PAD, BINS, MOST
        )
    if split == 0:
        store_known(after, row, question, goal, heavy, above, below, count_above, mass_above, count)
        if LEVELS:
            tl.store(cursors + row, 0)
    if count <= MOST:
        return
    temperature, row_ptr = tl.load(temperatures + row), logits + row * stride
    peak = load_peak(row_ptr, tl.load(bests + row), temperature)
    found, mass, _ = weigh_span(
        row_ptr, split * SPAN, temperature, peak, 0.0, above, bin_depths(above, below, BINS),
        VOCAB, SPAN, BLOCK, UNROLL, BINS,
    )  # fmt: skip
    place = (row * SPLITS + split) * BINS + tl.arange(0, BINS)
    tl.store(bin_counts + place, found)
    tl.store(bin_masses + place, mass)


@triton.jit
def narrow_bins(known, row, counts, masses, SPLITS: tl.constexpr, SPLIT_PAD: tl.constexpr,
                BINS: tl.constexpr, MOST: tl.constexpr):  # fmt: skip
    """What is known of a row after its bins were weighed; as before where they were not."""
    question, goal, heavy, above, below, count_above, mass_above, count = load_known(known, row)
    if count > MOST:
        above, below, count_above, mass_above, count = narrow(
            question, goal, above, count_above, mass_above, bin_depths(above, below, BINS),
            add_splits(counts, row, SPLITS, SPLIT_PAD, BINS),
            add_splits(masses, row, SPLITS, SPLIT_PAD, BINS), BINS, MOST,
        )  # fmt: skip
    return question, goal, heavy, above, below, count_above, mass_above, count


@triton.jit
def gather_rows(logits, bests, temperatures, counts, masses, before, after, cursors, candidates,
                stride, VOCAB: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
                SPLITS: tl.constexpr, SPLIT_PAD: tl.constexpr, BINS: tl.constexpr,
                MOST: tl.constexpr):  # fmt: skip
    """Program (row, split) adds its part of what is left to the row's keys i64[R,MOST].

    They come in any order, for they are sorted.
    """
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(before + row * 8) == 0:
        if split == 0:
            tl.store(after + row * 8, 0.0)
        return
    question, goal, heavy, above, below, count_above, mass_above, count = narrow_bins(
        before, row, counts, masses, SPLITS, SPLIT_PAD, BINS, MOST
    )
    if split == 0:
        store_known(after, row, question, goal, heavy, above, below, count_above, mass_above, count)
    if count > MOST:
        return
    temperature, row_ptr = tl.load(temperatures + row), logits + row * stride
    peak = load_peak(row_ptr, tl.load(bests + row), temperature)
    for begin in range(0, SPAN, BLOCK):
        at = split * SPAN + begin + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, at, VOCAB)
        depth = depth_below(x, peak)
        kept = (depth > above) & (depth <= below)
        found = kept.to(tl.int32)
        number = tl.sum(found, axis=0)
        if number > 0:
            place = tl.atomic_add(cursors + row, number)
            key = element_key(x, at).to(tl.int64, bitcast=True)
            offset = place + tl.cumsum(found, axis=0) - found
            tl.store(candidates + row * MOST + offset, key, mask=kept & (offset < MOST))


@triton.jit
def settle_rows(logits, ids, bests, temperatures, top_ks, top_ps, min_ps, seeds, positions, known,
                later, candidates, stride, VOCAB: tl.constexpr, MOST: tl.constexpr):  # fmt: skip
    """Program r answers row r's question by its candidates: the id that is drawn, or -2 and in
    `later` f64[R,8] the next question, if a cut lies far from the best. Other rows keep theirs."""
    row = tl.program_id(0).to(tl.int64)
    tl.store(later + row * 8, 0.0)
    if tl.load(known + row * 8) == 0:
        return
    question, goal, heavy, _, _, count_above, mass_above, count = load_known(known, row)
    tl.store(ids + row, -2)
    if count > MOST:
        return
    peak = load_peak(logits + row * stride, tl.load(bests + row), tl.load(temperatures + row))
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row).to(tl.float64)
    min_p = tl.load(min_ps + row).to(tl.float64)
    uniform = philox_uniform(tl.load(seeds + row), tl.load(positions + row))
    at = tl.arange(0, MOST)
    held = tl.load(candidates + row * MOST + at, mask=at < count, other=0)
    # signed order of flipped top bits is unsigned order
    key = tl.sort(held ^ (-(2**63)), descending=True) ^ (-(2**63))
    key = key.to(tl.uint64, bitcast=True)
    weight = tl.exp(key_value(key).to(tl.float64) - peak.to(tl.float64))
    weight = tl.where(at < count, weight, 0.0)
    rank = at + count_above
    if question == 1:
        weight = tl.where(rank < top_k, weight, 0.0)
        goal = top_p * (mass_above + tl.sum(weight, axis=0))
    begins_best = count_above == 0
    cuts = ((question == 1) & begins_best & (top_p < 1.0)) | (question == 2)
    sums = mass_above + tl.cumsum(weight, axis=0)
    answered = (question != 2) | (tl.max(sums, axis=0) >= goal)
    if cuts:
        weight = tl.where((sums - weight < goal) | (rank == 0), weight, 0.0)
    whole = mass_above + tl.sum(weight, axis=0)
    if (question != 3) & (begins_best == 0):
        if answered:
            drawn = (question == 2) | (top_p >= 1.0)
            tl.store(later + row * 8, tl.where(drawn, 3.0, 2.0))
            goal = tl.where(drawn, uniform * tl.minimum(whole, heavy), goal)
            tl.store(later + row * 8 + 1, goal)
            tl.store(later + row * 8 + 2, heavy)
        return
    weight = tl.where(weight >= min_p, weight, 0.0)
    sums = mass_above + tl.cumsum(weight, axis=0)
    reached = tl.max(sums, axis=0)
    goal = tl.where(question == 3, goal, uniform * reached)
    chosen = tl.max(tl.where((sums > goal) & (weight > 0.0), key, 0), axis=0)
    token = (0xFFFFFFFF - (chosen & 0xFFFFFFFF)).to(tl.int32)
    tl.store(ids + row, tl.where(answered & (reached > goal), token, -2))
