"""The largest of rows of float32 logits, spread over the device."""

import triton
import triton.language as tl


@triton.jit
def order_key(x):
    """u32 that rises as the float32 does, -0.0 and 0.0 alike."""
    bits = (x + 0.0).to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 == 1, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def argmax_parts(logits, parts, stride, VOCAB: tl.constexpr, SPAN: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """Program (row, split) stores the largest of SPAN logits as key << 32 | ~id.

    So the largest part is the largest logit with the lowest id; NaN is above everything.
    """
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    best = tl.full([BLOCK], 0, tl.uint64)
    for begin in tl.static_range(0, SPAN, BLOCK):
        at = split * SPAN + begin + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride + at, mask=at < VOCAB, other=float("-inf"))
        key = tl.where(x != x, 0xFFFFFFFF, order_key(x)).to(tl.uint64)
        best = tl.maximum(best, key << 32 | (0xFFFFFFFF - at.to(tl.uint32)).to(tl.uint64))
    top = tl.max(best, axis=0)
    tl.store(parts + row * tl.num_programs(1) + split, top.to(tl.int64, bitcast=True))


@triton.jit
def argmax_rows(parts, out, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Program r ends row r: the id, or -1 where the largest is NaN or infinite."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    found = tl.load(parts + row * SPLITS + at, mask=at < SPLITS, other=0)
    top = tl.max(found.to(tl.uint64, bitcast=True), axis=0)
    key = (top >> 32).to(tl.uint32)
    # 0x007FFFFF is the key of -inf, 0xFF800000 that of +inf; NaN lies above
    finite = (key > 0x007FFFFF) & (key < 0xFF800000)
    ids = (0xFFFFFFFF - (top & 0xFFFFFFFF)).to(tl.int32)
    tl.store(out + row, tl.where(finite, ids, -1))
