"""Rotary embedding of queries and keys, with the norm of each head where models have it."""

import triton
import triton.language as tl

from inferplane_triton.device.order import meet_neighbours


@triton.jit
def rotate_heads(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_weight_ptr, k_weight_ptr, q_out_ptr, k_out_ptr,
    q_stride, k_stride, table_stride, q_heads, k_heads, eps,
    HEAD: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
    TAIL: tl.constexpr, INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
    EARLY: tl.constexpr = False,
):  # fmt: skip
    """Program (t, b) turns HEADS heads of token t: those of q first, then those of k.

    HALF pairs of each head are rotated (Su et al. 2021, arXiv 2104.09864), the elements after them
    are copied. BLOCK and TAIL are powers of two that hold HALF and the copied rest.
    """
    meet_neighbours(EARLY)
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    q_blocks = tl.cdiv(q_heads, HEADS)
    if block < q_blocks:
        source = q_ptr + token * q_stride
        target = q_out_ptr + token * q_heads * HEAD
        weight_ptr = q_weight_ptr
        first, heads = block * HEADS, q_heads
    else:
        source = k_ptr + token * k_stride
        target = k_out_ptr + token * k_heads * HEAD
        weight_ptr = k_weight_ptr
        first, heads = (block - q_blocks) * HEADS, k_heads
    head = first + tl.arange(0, HEADS)
    pair = tl.arange(0, BLOCK)
    inside = (head < heads)[:, None] & (pair < HALF)[None, :]
    left = 2 * pair if INTERLEAVED else pair
    right = 2 * pair + 1 if INTERLEAVED else HALF + pair
    base = head[:, None] * HEAD
    a = tl.load(source + base + left[None, :], mask=inside, other=0.0)
    b = tl.load(source + base + right[None, :], mask=inside, other=0.0)
    if NORM:
        wide_a, wide_b = a.to(tl.float32), b.to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(wide_a * wide_a + wide_b * wide_b, axis=1) / HEAD + eps)
        weight_a = tl.load(weight_ptr + left, mask=pair < HALF, other=0.0)
        weight_b = tl.load(weight_ptr + right, mask=pair < HALF, other=0.0)
        a = (wide_a * scale[:, None] * weight_a[None, :]).to(a.dtype)  # rounded as two ops round
        b = (wide_b * scale[:, None] * weight_b[None, :]).to(b.dtype)
    cos = tl.load(cos_ptr + token * table_stride + pair, mask=pair < HALF, other=0.0)[None, :]
    sin = tl.load(sin_ptr + token * table_stride + pair, mask=pair < HALF, other=0.0)[None, :]
    a, b = a.to(tl.float32), b.to(tl.float32)
    tl.store(target + base + left[None, :], (a * cos - b * sin).to(q_out_ptr.dtype.element_ty),
             mask=inside)  # fmt: skip
    tl.store(target + base + right[None, :], (b * cos + a * sin).to(q_out_ptr.dtype.element_ty),
             mask=inside)  # fmt: skip
    if TAIL:
        rest = 2 * HALF + tl.arange(0, TAIL)
        present = (head < heads)[:, None] & (rest < HEAD)[None, :]
        copied = tl.load(source + base + rest[None, :], mask=present, other=0.0)
        tl.store(target + base + rest[None, :], copied, mask=present)
