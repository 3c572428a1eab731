"""Keys and values in 8 bits, made and read in registers: codes, a scale for each token and head.

LARGEST is the largest code, and so says which codes they are: 127 int8, 448 e4m3fn, 240 e4m3fnuz, 0
none. fp8 is made and read by its bits, which every device can do, with or without instructions for
it: 3 bits of fraction behind 4 of exponent, whose bias is 7 (e4m3fn) or 8 (e4m3fnuz).
"""

import triton
import triton.language as tl


@triton.jit
def widen_int8(codes):
    """i8 -> bf16: code + 128 as the last bits of 2^23, less what was added; upper halves remain."""
    return tl.inline_asm_elementwise(
        """{
    .reg .b32 t, b<4>;
    .reg .f32 f<4>;
    xor.b32 t, $2, 0x80808080;
    prmt.b32 b0, t, 0x4B000000, 0x7440;
    prmt.b32 b1, t, 0x4B000000, 0x7441;
    prmt.b32 b2, t, 0x4B000000, 0x7442;
    prmt.b32 b3, t, 0x4B000000, 0x7443;
    mov.b32 f0, b0;
    mov.b32 f1, b1;
    mov.b32 f2, b2;
    mov.b32 f3, b3;
    sub.f32 f0, f0, 0f4B000080;
    sub.f32 f1, f1, 0f4B000080;
    sub.f32 f2, f2, 0f4B000080;
    sub.f32 f3, f3, 0f4B000080;
    mov.b32 b0, f0;
    mov.b32 b1, f1;
    mov.b32 b2, f2;
    mov.b32 b3, f3;
    prmt.b32 $0, b0, b1, 0x7632;
    prmt.b32 $1, b2, b3, 0x7632;
}""",
        "=r,=r,r", [codes], dtype=tl.bfloat16, is_pure=True, pack=4,
    )  # fmt: skip


@triton.jit
def widen_e4m3(codes):
    """e4m3 bits -> bf16 as `widen_codes` does, two in a register; the factor is 2^120."""
    return tl.inline_asm_elementwise(
        """{
    .reg .b32 t<2>, s<2>, factor, zero;
    prmt.b32 t0, $2, 0, 0x1404;
    prmt.b32 t1, $2, 0, 0x3424;
    and.b32 s0, t0, 0x80008000;
    and.b32 s1, t1, 0x80008000;
    shr.u32 t0, t0, 4;
    shr.u32 t1, t1, 4;
    and.b32 t0, t0, 0x07F007F0;
    and.b32 t1, t1, 0x07F007F0;
    or.b32 t0, t0, s0;
    or.b32 t1, t1, s1;
    mov.b32 factor, 0x7B807B80;
    mov.b32 zero, 0x80008000;
    fma.rn.bf16x2 $0, t0, factor, zero;
    fma.rn.bf16x2 $1, t1, factor, zero;
}""",
        "=r,=r,r", [codes], dtype=tl.bfloat16, is_pure=True, pack=4,
    )  # fmt: skip


@triton.jit
def widen_codes(codes, kind: tl.constexpr, LARGEST: tl.constexpr, PTX: tl.constexpr = False):
    """Codes i8 as numbers of `kind`, exactly; what is no code (LARGEST 0) is only converted.

    An fp8's bits are moved to where `kind` has them; the exponent's bias is then a factor. Its
    least exponent means what it means in `kind`, so that numbers below the normal ones need no
    case. PTX: the device is one for PTX, where it says four bfloat16 at a time.
    """
    BIAS: tl.constexpr = 7 if LARGEST == 448 else 8
    if PTX and kind == tl.bfloat16 and (LARGEST == 127 or LARGEST == 448):
        wide = widen_int8(codes) if LARGEST == 127 else widen_e4m3(codes)
    elif LARGEST == 0 or LARGEST == 127:
        wide = codes.to(kind)
    elif kind == tl.float32:
        bits = (codes.to(tl.int32) << 20) & -0x78100000
        wide = bits.to(kind, bitcast=True) * (2.0 ** (127 - BIAS))
    elif kind == tl.float16:
        bits = (codes.to(tl.int16) << 7) & -0x4080
        wide = bits.to(kind, bitcast=True) * (2.0 ** (15 - BIAS))
    else:
        bits = (codes.to(tl.int16) << 4) & -0x7810
        wide = bits.to(kind, bitcast=True) * (2.0 ** (127 - BIAS))
    return wide


@triton.jit
def as_codes(x, LARGEST: tl.constexpr):
    """f32 within the range of the codes -> i8, half to even."""
    if LARGEST == 127:  # 1.5 * 2^23: there the next number is one more
        return ((x + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000).to(tl.int8)
    BIAS: tl.constexpr = 7 if LARGEST == 448 else 8
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    size = bits.to(tl.float32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - ((127 - BIAS) << 3)
    tiny = (size * (2.0 ** (BIAS + 2)) + 8388608.0).to(tl.int32, bitcast=True) - 0x4B000000
    codes = tl.where(size < 2.0 ** (1 - BIAS), tiny, normal)
    codes = tl.where((x < 0.0) & (codes > 0), codes - 128, codes)  # e4m3fnuz has one zero
    return codes.to(tl.int8)


@triton.jit
def rounded_scale(scale):
    """f32 -> bf16 as f32, half to even, which the interpreter's own conversion is not."""
    bits = tl.maximum(scale, 1e-30).to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def code_rows(x, axis: tl.constexpr, static, STATIC: tl.constexpr, LARGEST: tl.constexpr):
    """(codes of f32 rows along `axis`, their scales): `static` ones, or from the largest numbers.

    The same to the bit as `inferplane.execution.quantized_kv` writes.
    """
    if STATIC:
        scale = static.to(tl.float32)
    else:
        scale = rounded_scale(tl.div_rn(tl.max(tl.abs(x), axis=axis), LARGEST * 1.0))
    wide = tl.expand_dims(scale, axis)
    LIMIT: tl.constexpr = LARGEST * 1.0
    scaled = tl.clamp(tl.div_rn(x, tl.broadcast_to(wide, x.shape)), -LIMIT, LIMIT)
    return as_codes(scaled, LARGEST), scale
