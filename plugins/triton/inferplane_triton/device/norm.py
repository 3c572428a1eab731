"""Root-mean-square norms: one program normalises one row, in float32, rounded once."""

import triton
import triton.language as tl

from inferplane_triton.device.order import meet_neighbours


@triton.jit
def rms_norm_rows(
    x_ptr, weight_ptr, out_ptr, inner, x_outer, x_inner, out_outer, out_inner, eps,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """Row r is x[r // inner, r % inner, :SIZE]; Zhang and Sennrich 2019, arXiv 1910.07467."""
    meet_neighbours(EARLY)
    row = tl.program_id(0).to(tl.int64)
    outer, within = row // inner, row % inner
    at = tl.arange(0, BLOCK)
    inside = at < SIZE
    source = x_ptr + outer * x_outer + within * x_inner
    x = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / SIZE + eps)
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0)
    normed = x * scale * weight
    target = out_ptr + outer * out_outer + within * out_inner
    tl.store(target + at, normed.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def add_rms_norm_rows(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, x_stride, residual_stride, eps,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """sum = x + residual, rounded to its dtype; out = rms_norm(sum). Outputs are contiguous."""
    meet_neighbours(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < SIZE
    x = tl.load(x_ptr + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row * residual_stride + at, mask=inside, other=0.0)
    total = (x + residual.to(tl.float32)).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + row * SIZE + at, total, mask=inside)
    wide = total.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / SIZE + eps)
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0)
    normed = wide * scale * weight
    tl.store(out_ptr + row * SIZE + at, normed.to(out_ptr.dtype.element_ty), mask=inside)
