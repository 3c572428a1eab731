"""Stacks of matrices, one for each expert: rows meet the matrices that were chosen for them.

R rows, k experts of each, P = R * k pairs of both, E experts, O outputs, I inputs. Pairs are sorted
by expert (`experts.sort_pairs`), a program takes a tile of one expert's pairs, and results lie in
the pairs' own order. Codes and their scales are those of `quantized.py`, matrix after matrix.
"""

import triton
import triton.language as tl

from inferplane_triton.device.experts import find_tile, multiply_tile
from inferplane_triton.device.quantized import columns_of, load_widened


@triton.jit
def multiply_codes(x_ptr, row_at, known, codes_ptr, scale_ptr, offset_ptr, out_at, inside,
                   INPUTS: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr,
                   ROWS: tl.constexpr, COLS: tl.constexpr, BYTES: tl.constexpr,
                   OFFSET: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """f32[ROWS, COLS]: rows at `row_at` times the outputs `out_at`, widened to x's type."""
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for block in range(0, INPUTS // (8 * WIDE)):
        w = load_widened(codes_ptr, scale_ptr, offset_ptr, out_at, block, inside, INPUTS, GROUP,
                         WIDE, COLS, BYTES, OFFSET)  # fmt: skip
        w = tl.reshape(w.to(x_ptr.dtype.element_ty), [COLS, 8 * WIDE])
        at = tl.reshape(columns_of(block, INPUTS, WIDE, BYTES), [8 * WIDE])
        x = tl.load(x_ptr + row_at[:, None] * INPUTS + at[None, :], mask=known[:, None], other=0.0)
        if UPCAST:  # the interpreter's dot is wrong for bfloat16
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    return acc


@triton.jit
def multiply_stack(
    x_ptr, weight_ptr, scale_ptr, offset_ptr, order, counts, out_ptr, outputs,
    CHOICES: tl.constexpr, EXPERTS: tl.constexpr, E_PAD: tl.constexpr, INPUTS: tl.constexpr,
    GROUP: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    STEP: tl.constexpr, DENSE: tl.constexpr, BYTES: tl.constexpr, OFFSET: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Program (columns, tile): out[P,O] from x[R,I]; DENSE: the weights [E,O,I] are in x's type."""
    expert, first, rows = find_tile(counts, tl.program_id(1), EXPERTS, E_PAD, ROWS)
    if rows <= 0:
        return
    row = tl.arange(0, ROWS)
    known = row < rows
    pair = tl.load(order + first + row, mask=known, other=0).to(tl.int64)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = col < outputs
    matrix = expert.to(tl.int64) * outputs
    if DENSE:
        made = multiply_tile(x_ptr, pair // CHOICES, known, weight_ptr + matrix * INPUTS, col,
                             inside, INPUTS, ROWS, COLS, STEP, UPCAST)  # fmt: skip
    else:
        WORDS: tl.constexpr = INPUTS if BYTES else INPUTS // 8
        groups = matrix * (INPUTS // GROUP)
        made = multiply_codes(x_ptr, pair // CHOICES, known, weight_ptr + matrix * WORDS,
                              scale_ptr + groups, offset_ptr + groups, col, inside, INPUTS, GROUP,
                              WIDE, ROWS, COLS, BYTES, OFFSET, UPCAST)  # fmt: skip
    tl.store(out_ptr + pair[:, None] * outputs + col[None, :], made.to(out_ptr.dtype.element_ty),
             mask=known[:, None] & inside[None, :])  # fmt: skip
