"""Writing new keys and values to their slots of the paged cache."""

import triton
import triton.language as tl

from inferplane_triton.device.codes import code_rows


@triton.jit
def write_slots(
    k_ptr, v_ptr, k_cache, v_cache, slots, k_stride, v_stride,
    K_SIZE: tl.constexpr, V_SIZE: tl.constexpr, K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr,
):  # fmt: skip
    """Program t stores all heads of token t as row slots[t] of the contiguous caches."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    at = tl.arange(0, K_BLOCK)
    k = tl.load(k_ptr + token * k_stride + at, mask=at < K_SIZE, other=0.0)
    tl.store(k_cache + slot * K_SIZE + at, k.to(k_cache.dtype.element_ty), mask=at < K_SIZE)
    at = tl.arange(0, V_BLOCK)
    v = tl.load(v_ptr + token * v_stride + at, mask=at < V_SIZE, other=0.0)
    tl.store(v_cache + slot * V_SIZE + at, v.to(v_cache.dtype.element_ty), mask=at < V_SIZE)


@triton.jit
def put_codes(new, cache, scales, static_ptr, block, offset, HEADS: tl.constexpr,
              HEADS_PAD: tl.constexpr, SIZE: tl.constexpr, PAD: tl.constexpr, BLOCK: tl.constexpr,
              STATIC: tl.constexpr, LARGEST: tl.constexpr):  # fmt: skip
    """Store the keys, or values, of all heads of one token and their scales."""
    head, dims = tl.arange(0, HEADS_PAD), tl.arange(0, PAD)
    present = (head < HEADS)[:, None] & (dims < SIZE)[None, :]
    at = head[:, None] * SIZE + dims[None, :]
    x = tl.load(new + at, mask=present, other=0.0).to(tl.float32)
    static = tl.load(static_ptr + head, mask=head < HEADS, other=1.0) if STATIC else 0.0
    codes, scale = code_rows(x, 1, static, STATIC, LARGEST)
    tl.store(cache + block * BLOCK + offset * (HEADS * SIZE) + at, codes, mask=present)
    line = block * (BLOCK // 2) + offset * HEADS + head
    tl.store(scales + line, scale.to(tl.bfloat16), mask=head < HEADS)


@triton.jit
def write_codes(
    k_ptr, v_ptr, k_cache, v_cache, k_scales, v_scales, k_static, v_static, slots, k_stride,
    v_stride, HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, HEAD: tl.constexpr, K_PAD: tl.constexpr,
    V_HEAD: tl.constexpr, V_PAD: tl.constexpr, PAGE: tl.constexpr, K_BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, K_STATIC: tl.constexpr, V_STATIC: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """`write_slots` for caches of codes, which lie as `decode` says."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    block, offset = slot // PAGE, slot % PAGE
    put_codes(k_ptr + token * k_stride, k_cache, k_scales, k_static, block, offset, HEADS,
              HEADS_PAD, HEAD, K_PAD, K_BLOCK, K_STATIC, LARGEST)  # fmt: skip
    put_codes(v_ptr + token * v_stride, v_cache, v_scales, v_static, block, offset, HEADS,
              HEADS_PAD, V_HEAD, V_PAD, V_BLOCK, V_STATIC, LARGEST)  # fmt: skip


@triton.jit
def list_pages(tables, starts, out, stride, BLOCK: tl.constexpr):
    """Program s stores the first starts[s+1] - starts[s] blocks of row s of i32 tables at
    out[starts[s]]."""
    row = tl.program_id(0)
    start = tl.load(starts + row)
    count = tl.load(starts + row + 1) - start
    for begin in range(0, count, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        block = tl.load(tables + row.to(tl.int64) * stride + at, mask=at < count, other=0)
        tl.store(out + start + at, block, mask=at < count)
