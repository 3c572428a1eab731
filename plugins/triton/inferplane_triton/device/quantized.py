"""Products with quantised weights: codes are widened on the way, each weight is read once.

4-bit codes lie eight in a 32-bit word, code + 8: nibble k of word j of a row belongs to input
k * I / 8 + j, so that neighbouring words meet neighbouring inputs, eight times. With BYTES the
codes are int8 or fp8, one a byte, in their natural order.
"""

import triton
import triton.language as tl


@triton.jit
def as_fp8(x, BY_BITS: tl.constexpr):
    """f32 in the range and the steps of e4m3, half to even.

    BY_BITS: rounded before the conversion, which Triton's interpreter does not round correctly.
    """
    x = tl.clamp(x, -448.0, 448.0)
    if BY_BITS:
        bits = x.to(tl.int32, bitcast=True)
        coarse = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, coarse)
    return x.to(tl.float8e4nv)


@triton.jit
def row_scale(x_ptr, INPUTS: tl.constexpr, PAD: tl.constexpr):
    """What takes one row of x to the range of e4m3."""
    peak = tl.zeros([PAD], tl.float32)
    for begin in tl.static_range(0, INPUTS, PAD):
        at = begin + tl.arange(0, PAD)
        x = tl.load(x_ptr + at, mask=at < INPUTS, other=0.0).to(tl.float32)
        peak = tl.maximum(peak, tl.abs(x))
    return tl.maximum(tl.div_rn(tl.max(peak, axis=0), 448.0), 1e-12)  # of a row of zeros


@triton.jit
def row_scales(x_ptr, x_stride, INPUTS: tl.constexpr, PAD: tl.constexpr, M: tl.constexpr):
    """`row_scale` of up to 4 rows."""
    s0 = row_scale(x_ptr, INPUTS, PAD)
    s1, s2, s3 = s0, s0, s0
    if M > 1:
        s1 = row_scale(x_ptr + x_stride, INPUTS, PAD)
    if M > 2:
        s2 = row_scale(x_ptr + 2 * x_stride, INPUTS, PAD)
        s3 = row_scale(x_ptr + 3 * x_stride, INPUTS, PAD)
    return s0, s1, s2, s3


@triton.jit
def code_plus(words, K: tl.constexpr):
    """Nibble K of each word as f32: code + 8 + 128 for even K, + 2048 for odd ones.

    The nibble is moved into the right bits of a float's fraction: two operations of integers at
    most, where a conversion takes four and more.
    """
    if K == 0:
        moved = words << 16
    elif K < 3:
        moved = words << 8
    elif K < 5:
        moved = words
    elif K < 7:
        moved = words >> 8
    else:
        moved = words >> 16
    if K % 2 == 0:
        return ((moved & 0xF0000) | 0x43000000).to(tl.float32, bitcast=True)
    return ((moved & 0xF000) | 0x45000000).to(tl.float32, bitcast=True)


@triton.jit
def word_part(nibbles, x_ptr, at, present, scale, offset, K: tl.constexpr, EACH: tl.constexpr,
              OFFSET: tl.constexpr):  # fmt: skip
    """f32[LANES, ROWS]: nibbles[LANES, ROWS, 4] times their inputs, in the scale of their group."""
    x = tl.load(x_ptr + K * EACH + at, mask=present, other=0.0).to(tl.float32)
    total = tl.sum(x, axis=1)[:, None]
    part = tl.sum(nibbles * x[:, None, :], axis=2) - total * (136.0 if K % 2 == 0 else 2056.0)
    if OFFSET:
        return part * scale + total * offset
    return part * scale


@triton.jit
def stream_words(
    x_ptr, words_ptr, scale_ptr, offset_ptr, bias_ptr, out_ptr, x_stride, outputs,
    INPUTS: tl.constexpr, GROUP: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr, OFFSET: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Program p: outputs p * ROWS.. of x[M, I] @ w[O, I]^T for 4-bit codes; M is 1, 2 or 4.

    LANES is the number of threads: each holds 4 neighbouring words of every row, and of x what
    belongs to them, so that nothing moves between threads before the last sum. Of the two outer
    dimensions the compiler spreads the first over threads: that is why lanes come before rows.
    """
    EACH: tl.constexpr = INPUTS // 8
    STEP: tl.constexpr = 4 * LANES
    GROUPS: tl.constexpr = INPUTS // GROUP
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    lane = tl.arange(0, LANES) * 4
    at = lane[:, None] + tl.arange(0, 4)[None, :]
    source = words_ptr + row.to(tl.int64)[None, :, None] * EACH + at[:, None, :]
    words = tl.load(source, mask=inside[None, :, None] & (at < EACH)[:, None, :], other=0)
    a0 = tl.zeros([LANES, ROWS], tl.float32)
    a1, a2, a3 = a0, a0, a0
    for begin in tl.range(0, EACH, STEP, num_stages=1):
        coming = begin + STEP + at < EACH
        later = tl.load(source + begin + STEP, mask=inside[None, :, None] & coming[:, None, :],
                        other=0)  # fmt: skip
        here = begin + at
        present = here < EACH
        known = inside[None, :] & (begin + lane < EACH)[:, None]
        for k in tl.static_range(8):
            group = row[None, :] * GROUPS + ((k * EACH + begin + lane) // GROUP)[:, None]
            scale = tl.load(scale_ptr + group, mask=known, other=0.0)
            offset = scale
            if OFFSET:
                offset = tl.load(offset_ptr + group, mask=known, other=0.0)
            w = code_plus(words, k)
            a0 += word_part(w, x_ptr, here, present, scale, offset, k, EACH, OFFSET)
            if M > 1:
                a1 += word_part(w, x_ptr + x_stride, here, present, scale, offset, k, EACH, OFFSET)
            if M > 2:
                a2 += word_part(w, x_ptr + 2 * x_stride, here, present, scale, offset, k, EACH,
                                OFFSET)  # fmt: skip
                a3 += word_part(w, x_ptr + 3 * x_stride, here, present, scale, offset, k, EACH,
                                OFFSET)  # fmt: skip
        words = later
    store_rows(a0, a1, a2, a3, 1.0, 1.0, 1.0, 1.0, bias_ptr, out_ptr, row, inside, outputs, M, BIAS)


@triton.jit
def store_rows(a0, a1, a2, a3, s0, s1, s2, s3, bias_ptr, out_ptr, row, inside, outputs,
               M: tl.constexpr, BIAS: tl.constexpr):  # fmt: skip
    """Sum over the lanes, times each row's scale, plus the bias."""
    bias = tl.zeros_like(tl.sum(a0, axis=0))
    if BIAS:
        bias += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)
    kind: tl.constexpr = out_ptr.dtype.element_ty
    tl.store(out_ptr + row, (tl.sum(a0, axis=0) * s0 + bias).to(kind), mask=inside)
    if M > 1:
        out_ptr += outputs
        tl.store(out_ptr + row, (tl.sum(a1, axis=0) * s1 + bias).to(kind), mask=inside)
    if M > 2:
        out_ptr += outputs
        tl.store(out_ptr + row, (tl.sum(a2, axis=0) * s2 + bias).to(kind), mask=inside)
        out_ptr += outputs
        tl.store(out_ptr + row, (tl.sum(a3, axis=0) * s3 + bias).to(kind), mask=inside)


@triton.jit
def byte_part(w, x_ptr, at, present, scale, x_scale, total, ROUND: tl.constexpr,
              GROUPED: tl.constexpr, OFFSET: tl.constexpr, BY_BITS: tl.constexpr):  # fmt: skip
    """f32[LANES, ROWS]: w[LANES, ROWS, 8] times their inputs, plus `total` times the inputs."""
    x = tl.load(x_ptr + at, mask=present, other=0.0).to(tl.float32)
    if ROUND:
        x = as_fp8(tl.div_rn(x, x_scale), BY_BITS).to(tl.float32)
    part = tl.sum(w * x[:, None, :], axis=2)
    if GROUPED:
        part *= scale
    if OFFSET:
        part += tl.sum(x, axis=1)[:, None] * total
    return part


@triton.jit
def stream_bytes(
    x_ptr, codes_ptr, scale_ptr, offset_ptr, given_ptr, bias_ptr, out_ptr, x_stride, outputs,
    INPUTS: tl.constexpr, GROUP: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr, OFFSET: tl.constexpr, BIAS: tl.constexpr, ROUND: tl.constexpr,
    GIVEN: tl.constexpr, BY_BITS: tl.constexpr,
):  # fmt: skip
    """`stream_words` for codes of a byte; with ROUND, x goes through e4m3 on the way, by the scale
    of its row or by one GIVEN."""
    STEP: tl.constexpr = 8 * LANES
    GROUPS: tl.constexpr = INPUTS // GROUP
    GROUPED: tl.constexpr = GROUPS > 1
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    lane = tl.arange(0, LANES) * 8
    at = lane[:, None] + tl.arange(0, 8)[None, :]
    source = codes_ptr + row.to(tl.int64)[None, :, None] * INPUTS + at[:, None, :]
    codes = tl.load(source, mask=inside[None, :, None] & (at < INPUTS)[:, None, :], other=0.0)
    s0, s1, s2, s3 = 1.0, 1.0, 1.0, 1.0
    if GIVEN:
        s0 = tl.load(given_ptr)
        s1, s2, s3 = s0, s0, s0
    elif ROUND:
        s0, s1, s2, s3 = row_scales(x_ptr, x_stride, INPUTS, STEP, M)
    a0 = tl.zeros([LANES, ROWS], tl.float32)
    a1, a2, a3 = a0, a0, a0
    for begin in tl.range(0, INPUTS, STEP, num_stages=1):
        coming = begin + STEP + at < INPUTS
        later = tl.load(source + begin + STEP, mask=inside[None, :, None] & coming[:, None, :],
                        other=0.0)  # fmt: skip
        here = begin + at
        present = here < INPUTS
        scale = a0
        total = a0
        if GROUPED:
            known = inside[None, :] & (begin + lane < INPUTS)[:, None]
            group = row[None, :] * GROUPS + ((begin + lane) // GROUP)[:, None]
            scale = tl.load(scale_ptr + group, mask=known, other=0.0)
            if OFFSET:
                total = tl.load(offset_ptr + group, mask=known, other=0.0)
        elif OFFSET:  # divided by the scale that is applied at the end
            total = (
                tl.load(offset_ptr + row, mask=inside, other=0.0)
                / tl.load(scale_ptr + row, mask=inside, other=1.0)
            )[None, :] + tl.zeros_like(a0)
        w = codes.to(tl.float32)
        a0 += byte_part(w, x_ptr, here, present, scale, s0, total, ROUND, GROUPED, OFFSET, BY_BITS)
        if M > 1:
            a1 += byte_part(w, x_ptr + x_stride, here, present, scale, s1, total, ROUND, GROUPED,
                            OFFSET, BY_BITS)  # fmt: skip
        if M > 2:
            a2 += byte_part(w, x_ptr + 2 * x_stride, here, present, scale, s2, total, ROUND,
                            GROUPED, OFFSET, BY_BITS)  # fmt: skip
            a3 += byte_part(w, x_ptr + 3 * x_stride, here, present, scale, s3, total, ROUND,
                            GROUPED, OFFSET, BY_BITS)  # fmt: skip
        codes = later
    if not GROUPED:
        scale = tl.load(scale_ptr + row, mask=inside, other=0.0)[None, :]
        a0, a1, a2, a3 = a0 * scale, a1 * scale, a2 * scale, a3 * scale
    store_rows(a0, a1, a2, a3, s0, s1, s2, s3, bias_ptr, out_ptr, row, inside, outputs, M, BIAS)


@triton.jit
def load_widened(
    codes_ptr, scale_ptr, offset_ptr, row, block, inside, INPUTS: tl.constexpr,
    GROUP: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
):  # fmt: skip
    """Weights f32[ROWS, 8, WIDE]: of each eighth of the inputs the same WIDE (words), or 8 * WIDE
    neighbours (BYTES)."""
    GROUPS: tl.constexpr = INPUTS // GROUP
    at, eighth = block * WIDE + tl.arange(0, WIDE), tl.arange(0, 8)
    if BYTES:
        column = block * 8 * WIDE + eighth * WIDE
        place = column[:, None] + tl.arange(0, WIDE)[None, :]
        source = codes_ptr + row.to(tl.int64)[:, None, None] * INPUTS + place[None, :, :]
        w = tl.load(source, mask=inside[:, None, None], other=0.0).to(tl.float32)
    else:
        column = eighth * (INPUTS // 8) + block * WIDE
        source = codes_ptr + row.to(tl.int64)[:, None] * (INPUTS // 8) + at[None, :]
        words = tl.load(source, mask=inside[:, None], other=0)
        w = ((words[:, None, :] >> (4 * eighth)[None, :, None]) & 15).to(tl.float32) - 8.0
    group = row[:, None] * GROUPS + (column // GROUP)[None, :]
    w *= tl.load(scale_ptr + group, mask=inside[:, None], other=0.0)[:, :, None]
    if OFFSET:
        w += tl.load(offset_ptr + group, mask=inside[:, None], other=0.0)[:, :, None]
    return w


@triton.jit
def columns_of(block, INPUTS: tl.constexpr, WIDE: tl.constexpr, BYTES: tl.constexpr):
    """i32[8, WIDE]: the inputs whose weights `load_widened` gives."""
    eighth, at = tl.arange(0, 8)[:, None], tl.arange(0, WIDE)[None, :]
    if BYTES:
        return block * 8 * WIDE + eighth * WIDE + at
    return eighth * (INPUTS // 8) + block * WIDE + at


@triton.jit(do_not_specialize=["rows"])
def tile_codes(
    x_ptr, codes_ptr, scale_ptr, offset_ptr, bias_ptr, out_ptr, x_stride, rows, outputs,
    INPUTS: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BYTES: tl.constexpr, OFFSET: tl.constexpr, BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Program (n, m): a tile of x[T, I] @ w[O, I]^T, weights widened to x's type in registers."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n_inside, m_inside = n < outputs, m < rows
    acc = tl.zeros([BM, BN], tl.float32)
    for block in range(0, INPUTS // (8 * WIDE)):
        w = load_widened(codes_ptr, scale_ptr, offset_ptr, n, block, n_inside, INPUTS, GROUP, WIDE,
                         BN, BYTES, OFFSET)  # fmt: skip
        w = tl.reshape(w.to(x_ptr.dtype.element_ty), [BN, 8 * WIDE])
        at = tl.reshape(columns_of(block, INPUTS, WIDE, BYTES), [8 * WIDE])
        x = tl.load(x_ptr + m.to(tl.int64)[:, None] * x_stride + at[None, :],
                    mask=m_inside[:, None], other=0.0)  # fmt: skip
        if UPCAST:
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    if BIAS:
        acc += tl.load(bias_ptr + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :],
             acc.to(out_ptr.dtype.element_ty),
             mask=m_inside[:, None] & n_inside[None, :])  # fmt: skip


@triton.jit
def widen_codes(
    codes_ptr, scale_ptr, offset_ptr, out_ptr, outputs, INPUTS: tl.constexpr,
    GROUP: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
):  # fmt: skip
    """Program (p, b): block b of the weights of outputs p * ROWS.. in high precision, out[O, I]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(1)
    inside = row < outputs
    w = load_widened(codes_ptr, scale_ptr, offset_ptr, row, block, inside, INPUTS, GROUP, WIDE,
                     ROWS, BYTES, OFFSET)  # fmt: skip
    at = columns_of(block, INPUTS, WIDE, BYTES)
    tl.store(out_ptr + row.to(tl.int64)[:, None, None] * INPUTS + at[None, :, :],
             w.to(out_ptr.dtype.element_ty), mask=inside[:, None, None])  # fmt: skip


@triton.jit
def round_rows(x_ptr, q_ptr, scale_ptr, given_ptr, x_stride, INPUTS: tl.constexpr,
               PAD: tl.constexpr, GIVEN: tl.constexpr, BY_BITS: tl.constexpr):  # fmt: skip
    """Program r: row r of x[T, I] in e4m3 and its scale, or one GIVEN for all."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PAD)
    x = tl.load(x_ptr + row * x_stride + at, mask=at < INPUTS, other=0.0).to(tl.float32)
    if GIVEN:
        scale = tl.load(given_ptr)
    else:
        peak = tl.max(tl.abs(x), axis=0)
        scale = tl.maximum(tl.div_rn(peak, 448.0), 1e-12)
    q = as_fp8(tl.div_rn(x, scale), BY_BITS)
    tl.store(q_ptr + row * INPUTS + at, q, mask=at < INPUTS)
    tl.store(scale_ptr + row, scale)


@triton.jit(do_not_specialize=["rows"])
def tile_int8(
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, out_ptr, rows, outputs, x_scale_step,
    INPUTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    """Program (n, m): a tile of int8 x[T, I] @ int8 w[O, I]^T in int32, then both scales.

    `x_scale_step` is 1 for a scale a token, 0 for one scale.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    k = tl.arange(0, BK)
    n_inside, m_inside = n < outputs, m < rows
    acc = tl.zeros([BM, BN], tl.int32)
    for begin in range(0, INPUTS, BK):
        x = tl.load(x_ptr + m.to(tl.int64)[:, None] * INPUTS + begin + k[None, :],
                    mask=m_inside[:, None], other=0)  # fmt: skip
        w = tl.load(w_ptr + n.to(tl.int64)[:, None] * INPUTS + begin + k[None, :],
                    mask=n_inside[:, None], other=0)  # fmt: skip
        acc = tl.dot(x, tl.trans(w), acc, out_dtype=tl.int32)
    x_scale = tl.load(x_scale_ptr + m * x_scale_step, mask=m_inside, other=0.0)
    w_scale = tl.load(w_scale_ptr + n, mask=n_inside, other=0.0)
    out = acc.to(tl.float32) * x_scale[:, None] * w_scale[None, :]
    if BIAS:
        out += tl.load(bias_ptr + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :],
             out.to(out_ptr.dtype.element_ty),
             mask=m_inside[:, None] & n_inside[None, :])  # fmt: skip
