"""Writing new keys and values to their slots of the paged cache."""

import triton
import triton.language as tl


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
