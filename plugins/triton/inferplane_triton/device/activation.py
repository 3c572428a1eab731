"""Gated activations: activation(first half) times second half, in float32."""

import triton
import triton.language as tl

from inferplane_triton.device.order import meet_neighbours


@triton.jit
def gated_rows(
    x_ptr, out_ptr, x_stride, SIZE: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr = False,
):  # fmt: skip
    """out[row, i] = act(x[row, i]) * x[row, SIZE + i]; act is SiLU or tanh-GELU."""
    meet_neighbours(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    gate = tl.load(x_ptr + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + SIZE + at, mask=inside, other=0.0).to(tl.float32)
    if GELU:  # (1 + tanh(y)) / 2 = sigmoid(2y), without the cancellation
        active = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        active = gate * tl.sigmoid(gate)
    tl.store(out_ptr + row * SIZE + at, (active * up).to(out_ptr.dtype.element_ty), mask=inside)
