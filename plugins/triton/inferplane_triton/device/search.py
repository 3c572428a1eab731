"""Searching rows that candidates could not decide, such as those of many equal logits.

A program walks its row alone. A pass divides the keys that are left by the first digit in which
they differ, so the digits that all share and those behind the last one cost nothing. V vocabulary.
"""

import triton
import triton.language as tl

from inferplane_triton.device.draw import element_key, load_peak, load_scaled, philox_uniform


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
    """Program r decides row r if `settle_rows` could not; `bests` holds each row's best id.

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
