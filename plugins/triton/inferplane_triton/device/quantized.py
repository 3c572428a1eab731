"""Products with quantised weights: codes are widened on the way, each weight is read once.

4-bit codes lie two in a byte, input 2j in the low half, stored as code + 8. A loop step stays
inside one group of inputs, so a scale and an offset an output serve it.
"""

import triton
import triton.language as tl


@triton.jit
def load_pair(codes_ptr, row, begin, inside, INPUTS: tl.constexpr, HALF: tl.constexpr,
              FOUR: tl.constexpr):  # fmt: skip
    """Weights of inputs begin + 2j and begin + 2j + 1, each f32[ROWS, HALF]."""
    at = tl.arange(0, HALF)
    wide = row.to(tl.int64)[:, None] * INPUTS
    if FOUR:
        packed = tl.load(codes_ptr + wide // 2 + begin // 2 + at[None, :], mask=inside[:, None],
                         other=0).to(tl.int32)  # fmt: skip
        return (packed & 15).to(tl.float32) - 8.0, (packed >> 4).to(tl.float32) - 8.0
    even = tl.load(codes_ptr + wide + begin + 2 * at[None, :], mask=inside[:, None], other=0.0)
    odd = tl.load(codes_ptr + wide + begin + 2 * at[None, :] + 1, mask=inside[:, None], other=0.0)
    return even.to(tl.float32), odd.to(tl.float32)


@triton.jit
def stream_codes(
    x_ptr, codes_ptr, scale_ptr, offset_ptr, bias_ptr, out_ptr, x_stride, outputs,
    INPUTS: tl.constexpr, GROUPS: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr, FOUR: tl.constexpr, OFFSET: tl.constexpr, BIAS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Program p: outputs p * ROWS.. of x[M, I] @ w[O, I]^T; COLS divides the group."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    m, at = tl.arange(0, M), tl.arange(0, COLS // 2)
    acc = tl.zeros([M, ROWS, COLS // 2], tl.float32)
    for begin in tl.range(0, INPUTS, COLS, num_stages=STAGES):
        even, odd = load_pair(codes_ptr, row, begin, inside, INPUTS, COLS // 2, FOUR)
        group = row * GROUPS + begin // (INPUTS // GROUPS)
        scale = tl.load(scale_ptr + group, mask=inside, other=0.0)[:, None]
        even, odd = even * scale, odd * scale
        if OFFSET:
            offset = tl.load(offset_ptr + group, mask=inside, other=0.0)[:, None]
            even, odd = even + offset, odd + offset
        here = x_ptr + m[:, None] * x_stride + begin + 2 * at[None, :]
        x_even = tl.load(here).to(tl.float32)[:, None, :]
        x_odd = tl.load(here + 1).to(tl.float32)[:, None, :]
        acc += even[None, :, :] * x_even + odd[None, :, :] * x_odd
    out = tl.sum(acc, axis=2)
    if BIAS:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + m[:, None] * outputs + row[None, :], out.to(out_ptr.dtype.element_ty),
             mask=inside[None, :])  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def tile_codes(
    x_ptr, codes_ptr, scale_ptr, offset_ptr, bias_ptr, out_ptr, x_stride, rows, outputs,
    INPUTS: tl.constexpr, GROUPS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    COLS: tl.constexpr, FOUR: tl.constexpr, OFFSET: tl.constexpr, BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Program (n, m): a tile of x[T, I] @ w[O, I]^T, weights widened to x's type in registers."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n_inside, m_inside = n < outputs, m < rows
    acc = tl.zeros([BM, BN], tl.float32)
    for begin in range(0, INPUTS, COLS):
        even, odd = load_pair(codes_ptr, n, begin, n_inside, INPUTS, COLS // 2, FOUR)
        group = n * GROUPS + begin // (INPUTS // GROUPS)
        scale = tl.load(scale_ptr + group, mask=n_inside, other=0.0)[:, None]
        even, odd = even * scale, odd * scale
        if OFFSET:
            offset = tl.load(offset_ptr + group, mask=n_inside, other=0.0)[:, None]
            even, odd = even + offset, odd + offset
        w = tl.interleave(even, odd)
        at = begin + tl.arange(0, COLS)
        x = tl.load(x_ptr + m.to(tl.int64)[:, None] * x_stride + at[None, :],
                    mask=m_inside[:, None], other=0.0)  # fmt: skip
        if UPCAST:
            x, w = x.to(tl.float32), w.to(x_ptr.dtype.element_ty).to(tl.float32)
        else:
            w = w.to(x.dtype)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    if BIAS:
        acc += tl.load(bias_ptr + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :],
             acc.to(out_ptr.dtype.element_ty),
             mask=m_inside[:, None] & n_inside[None, :])  # fmt: skip


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
