"""Routed experts: each chosen one computes its tokens, in tiles of sorted rows, the others nothing.

T tokens, k experts of each, P = T * k pairs of both, E experts, D model size, I inner size. Grids
depend on shapes alone, so a step can be captured: a tile beyond the last one returns at once. The
sums of a token are in the order of its ids and no two programs add to one number, so that results
repeat. The grouping is that of Gale et al., "MegaBlocks", 2022, without its padded rows.
"""

import triton
import triton.language as tl


@triton.jit
def choose_experts(
    logits_ptr, weight_ptr, ids, stride, EXPERTS: tl.constexpr, E_PAD: tl.constexpr,
    CHOICES: tl.constexpr, C_PAD: tl.constexpr, RENORMALIZE: tl.constexpr, SIGMOID: tl.constexpr,
):  # fmt: skip
    """Program t: the best experts of token t, best first, the lower of equal ones; all are there,
    also for logits that are no numbers."""
    token = tl.program_id(0).to(tl.int64)
    expert, place = tl.arange(0, E_PAD), tl.arange(0, C_PAD)
    known = expert < EXPERTS
    x = tl.load(logits_ptr + token * stride + expert, mask=known, other=0.0).to(tl.float32)
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-x))
    else:
        scores = tl.exp(x - tl.max(tl.where(known, x, float("-inf")), axis=0))
        scores = scores / tl.sum(tl.where(known, scores, 0.0), axis=0)
    left = tl.where(known & (scores >= 0.0), scores, -1.0)
    weights, chosen = tl.zeros([C_PAD], tl.float32), tl.zeros([C_PAD], tl.int32)
    for choice in tl.static_range(CHOICES):
        best = tl.max(left, axis=0)
        first = tl.min(tl.where((left == best) & known, expert, EXPERTS - 1), axis=0)
        weights = tl.where(place == choice, best, weights)
        chosen = tl.where(place == choice, first, chosen)
        left = tl.where(expert == first, -1.0, left)
    weights = tl.where(weights < 0.0, float("nan"), weights)  # what was no number stays none
    if RENORMALIZE:
        weights = weights / tl.sum(weights, axis=0)
    at = token * CHOICES + place
    tl.store(weight_ptr + at, weights, mask=place < CHOICES)
    tl.store(ids + at, chosen, mask=place < CHOICES)


@triton.jit(do_not_specialize=["num_pairs"])
def sort_pairs(ids, order, counts, num_pairs, BLOCK: tl.constexpr):
    """Program e: counts[e], and the pairs of expert e in their order at their place in order[P]."""
    expert = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    before, mine = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for begin in range(0, num_pairs, BLOCK):
        found = tl.load(ids + begin + at, mask=begin + at < num_pairs, other=0x7FFFFFFF)
        before += (found < expert).to(tl.int32)
        mine += (found == expert).to(tl.int32)
    count = tl.sum(mine, axis=0)
    tl.store(counts + expert, count)
    if count > 0:
        place = tl.sum(before, axis=0)
        for begin in range(0, num_pairs, BLOCK):
            found = tl.load(ids + begin + at, mask=begin + at < num_pairs, other=0x7FFFFFFF)
            chosen = (found == expert).to(tl.int32)
            offset = place + tl.cumsum(chosen, axis=0) - chosen
            tl.store(order + offset, begin + at, mask=chosen > 0)
            place += tl.sum(chosen, axis=0)


@triton.jit
def find_tile(counts, tile, EXPERTS: tl.constexpr, E_PAD: tl.constexpr, ROWS: tl.constexpr):
    """(expert, first sorted row, rows) of a tile; no rows where there is no such tile."""
    expert = tl.arange(0, E_PAD)
    count = tl.load(counts + expert, mask=expert < EXPERTS, other=0)
    tiles = (count + ROWS - 1) // ROWS
    last = tl.cumsum(tiles, axis=0)
    here = (tile < last) & (tile >= last - tiles)
    index = tl.sum(tl.where(here, tile - (last - tiles), 0), axis=0)
    begin = tl.sum(tl.where(expert < tl.sum(tl.where(here, expert, 0), axis=0), count, 0), axis=0)
    held = tl.sum(tl.where(here, count, 0), axis=0)
    chosen = tl.sum(tl.where(here, expert, 0), axis=0)
    return chosen, begin + index * ROWS, tl.minimum(held - index * ROWS, ROWS)


@triton.jit
def multiply_tile(rows_ptr, row_at, known, weight_ptr, out_at, inside, INPUTS: tl.constexpr,
                  ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr,
                  UPCAST: tl.constexpr):  # fmt: skip
    """f32[ROWS, COLS]: rows at `row_at` times the matrix's outputs `out_at`, transposed."""
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for begin in range(0, INPUTS, STEP):
        at = begin + tl.arange(0, STEP)
        x = tl.load(rows_ptr + row_at[:, None] * INPUTS + at[None, :],
                    mask=known[:, None] & (at < INPUTS)[None, :], other=0.0)  # fmt: skip
        w = tl.load(weight_ptr + out_at[None, :] * INPUTS + at[:, None],
                    mask=inside[None, :] & (at < INPUTS)[:, None], other=0.0)  # fmt: skip
        if UPCAST:  # the interpreter's dot is wrong for bfloat16
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    return acc


@triton.jit
def gate_experts(
    x_ptr, w13_ptr, order, counts, out_ptr, CHOICES: tl.constexpr, EXPERTS: tl.constexpr,
    E_PAD: tl.constexpr, SIZE: tl.constexpr, INNER: tl.constexpr, GELU: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Program (columns, tile): out[P,I], in sorted order, from x[T,D] and w13[E,2I,D]."""
    expert, first, rows = find_tile(counts, tl.program_id(1), EXPERTS, E_PAD, ROWS)
    if rows <= 0:
        return
    row = tl.arange(0, ROWS)
    known = row < rows
    token = tl.load(order + first + row, mask=known, other=0).to(tl.int64) // CHOICES
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = col < INNER
    weight_ptr = w13_ptr + expert.to(tl.int64) * (2 * INNER * SIZE)
    gate = multiply_tile(x_ptr, token, known, weight_ptr, col, inside, SIZE, ROWS, COLS, STEP,
                         UPCAST)  # fmt: skip
    up = multiply_tile(x_ptr, token, known, weight_ptr + INNER * SIZE, col, inside, SIZE, ROWS,
                       COLS, STEP, UPCAST)  # fmt: skip
    if GELU:  # (1 + tanh(y)) / 2 = sigmoid(2y), without the cancellation
        active = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        active = gate * tl.sigmoid(gate)
    at = (first + row).to(tl.int64)[:, None] * INNER + col[None, :]
    made = (active * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, made, mask=known[:, None] & inside[None, :])


@triton.jit
def lower_experts(
    inner_ptr, w2_ptr, order, counts, out_ptr, EXPERTS: tl.constexpr, E_PAD: tl.constexpr,
    SIZE: tl.constexpr, INNER: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    STEP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Program (columns, tile): out[P,D], in the pairs' own order, from inner[P,I] and w2[E,D,I]."""
    expert, first, rows = find_tile(counts, tl.program_id(1), EXPERTS, E_PAD, ROWS)
    if rows <= 0:
        return
    row = tl.arange(0, ROWS)
    known = row < rows
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = col < SIZE
    weight_ptr = w2_ptr + expert.to(tl.int64) * (SIZE * INNER)
    made = multiply_tile(inner_ptr, (first + row).to(tl.int64), known, weight_ptr, col, inside,
                         INNER, ROWS, COLS, STEP, UPCAST)  # fmt: skip
    pair = tl.load(order + first + row, mask=known, other=0).to(tl.int64)
    tl.store(out_ptr + pair[:, None] * SIZE + col[None, :], made.to(out_ptr.dtype.element_ty),
             mask=known[:, None] & inside[None, :])  # fmt: skip


@triton.jit
def sum_experts(parts_ptr, share_ptr, out_ptr, CHOICES: tl.constexpr, SIZE: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """Program (token, columns): out[T,D] from parts[T,k,D] and the shares f32[T,k]."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for choice in range(CHOICES):
        pair = token * CHOICES + choice
        part = tl.load(parts_ptr + pair * SIZE + at, mask=at < SIZE, other=0.0).to(tl.float32)
        total += part * tl.load(share_ptr + pair)
    tl.store(out_ptr + token * SIZE + at, total.to(out_ptr.dtype.element_ty), mask=at < SIZE)
