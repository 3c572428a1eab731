"""One to four rows times a weight matrix: nothing but streaming the weights once."""

import triton
import triton.language as tl

from inferplane_triton.device.order import meet_neighbours


@triton.jit
def add_columns(acc, x_ptr, source, x_stride, begin, inside,
                INPUTS: tl.constexpr, M: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    """acc[M, ROWS, COLS] plus the products of columns begin..begin + COLS."""
    at = begin + tl.arange(0, COLS)
    m = tl.arange(0, M)
    if INPUTS % COLS == 0:
        w = tl.load(source + at[None, :], mask=inside[:, None], other=0.0)
        x = tl.load(x_ptr + m[:, None] * x_stride + at[None, :])
    else:
        present = (at < INPUTS)[None, :]
        w = tl.load(source + at[None, :], mask=inside[:, None] & present, other=0.0)
        x = tl.load(x_ptr + m[:, None] * x_stride + at[None, :], mask=present, other=0.0)
    return acc + w.to(tl.float32)[None, :, :] * x.to(tl.float32)[:, None, :]


@triton.jit
def stream_rows(
    x_ptr, w_ptr, bias_ptr, out_ptr, x_stride, w_stride, out_stride, outputs,
    INPUTS: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    BIAS: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """Program p computes outputs p * ROWS..: out[M, O] = x[M, I] @ w[O, I]^T + bias.

    With STAGES 0 the loop is unrolled, so that all loads of a program are in flight at once; long
    rows would not fit the registers and go through on-chip memory, STAGES deep.
    """
    meet_neighbours(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    m = tl.arange(0, M)
    source = w_ptr + row.to(tl.int64)[:, None] * w_stride
    acc = tl.zeros([M, ROWS, COLS], tl.float32)
    if STAGES:
        for begin in tl.range(0, INPUTS, COLS, num_stages=STAGES):
            acc = add_columns(acc, x_ptr, source, x_stride, begin, inside, INPUTS, M, COLS)
    else:
        for begin in tl.static_range(0, INPUTS, COLS):
            acc = add_columns(acc, x_ptr, source, x_stride, begin, inside, INPUTS, M, COLS)
    out = tl.sum(acc, axis=2)
    if BIAS:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + m[:, None] * out_stride + row[None, :], out.to(out_ptr.dtype.element_ty),
             mask=inside[None, :])  # fmt: skip


@triton.jit
def stream_gated(
    x_ptr, w_ptr, out_ptr, x_stride, w_stride, out_stride, outputs,
    INPUTS: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    EARLY: tl.constexpr = False,
):  # fmt: skip
    """`stream_rows` of silu(x[:, :I]) * x[:, I:], made anew by each program: it costs less
    than a launch."""
    meet_neighbours(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    col = tl.arange(0, COLS)
    m = tl.arange(0, M)
    source = w_ptr + row.to(tl.int64)[:, None] * w_stride
    acc = tl.zeros([M, ROWS, COLS], tl.float32)
    for begin in tl.static_range(0, INPUTS, COLS):
        at = begin + col
        present = (at < INPUTS)[None, :]
        w = tl.load(source + at[None, :], mask=inside[:, None] & present, other=0.0)
        here = x_ptr + m[:, None] * x_stride + at[None, :]
        gate = tl.load(here, mask=present, other=0.0).to(tl.float32)
        up = tl.load(here + INPUTS, mask=present, other=0.0).to(tl.float32)
        x = (gate * tl.sigmoid(gate) * up).to(x_ptr.dtype.element_ty).to(tl.float32)
        acc += w.to(tl.float32)[None, :, :] * x[:, None, :]
    out = tl.sum(acc, axis=2).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + m[:, None] * out_stride + row[None, :], out, mask=inside[None, :])


@triton.jit
def stream_normed(
    x_ptr, residual_ptr, norm_ptr, w_ptr, bias_ptr, out_ptr, sum_ptr,
    x_stride, residual_stride, w_stride, out_stride, outputs, eps,
    INPUTS: tl.constexpr, PAD: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
    ADD: tl.constexpr, BIAS: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """`stream_rows` of rms_norm(x + residual); program 0 also stores that sum.

    A program holds whole rows of the input (PAD columns), so the norm costs no second pass.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    at = tl.arange(0, PAD)
    m = tl.arange(0, M)
    present = (at < INPUTS)[None, :]
    source = w_ptr + row.to(tl.int64)[:, None] * w_stride + at[None, :]
    w = tl.load(source, mask=inside[:, None] & present, other=0.0)
    meet_neighbours(EARLY)  # the weights, which depend on nobody, are on their way
    x = tl.load(x_ptr + m[:, None] * x_stride + at[None, :], mask=present, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + m[:, None] * residual_stride + at[None, :], mask=present,
                           other=0.0)  # fmt: skip
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)
        if tl.program_id(0) == 0:
            tl.store(sum_ptr + m[:, None] * INPUTS + at[None, :], x, mask=present)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=1) / INPUTS + eps)
    weight = tl.load(norm_ptr + at, mask=at < INPUTS, other=0.0)
    normed = (wide * scale[:, None] * weight[None, :]).to(x_ptr.dtype.element_ty).to(tl.float32)
    out = tl.sum(w.to(tl.float32)[None, :, :] * normed[:, None, :], axis=2)
    if BIAS:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + m[:, None] * out_stride + row[None, :], out.to(out_ptr.dtype.element_ty),
             mask=inside[None, :])  # fmt: skip
