"""The ops of a decoder's step: noted on the tape where one runs, else Triton's kernels.

T tokens, H row size, I inputs, O outputs.
"""

from __future__ import annotations

from torch import Tensor

from inferplane.interfaces import Kernel
from inferplane_cuda.persistent.instructions import Matrix, Weights, half_of
from inferplane_cuda.persistent.launcher import longest_row
from inferplane_cuda.persistent.tape import Tape, tape_for
from inferplane_triton.kernels import activation, fused, norm, rotary
from inferplane_triton.kernels import linear as products

__all__ = [
    "ADD_NORM_LINEAR",
    "LINEAR",
    "SILU_MUL_LINEAR",
    "add_norm_linear",
    "add_rms_norm",
    "linear",
    "norm_rotary",
    "rms_norm",
    "rotary_embedding",
    "silu_mul",
    "silu_mul_linear",
]


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x[...,H] over its root mean square, times w f32[H]."""
    tape = tape_for(x)
    if tape is None or not _is_short(tape, x.shape[-1]):
        return norm.rms_norm(x, w, eps)
    return tape.norm(x.view(1, -1), None, w, eps)[0].view(x.shape)


def add_rms_norm(x: Tensor, residual: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm of x + residual, that sum) for x[...,H] and residual[...,H]."""
    tape = tape_for(x)
    if tape is None or tape_for(residual) is None or not _is_short(tape, x.shape[-1]):
        return norm.add_rms_norm(x, residual, w, eps)
    out, total = tape.norm(x.view(1, -1), residual.view(1, -1), w, eps)
    return out.view(x.shape), total.view(x.shape)


def silu_mul(x: Tensor) -> Tensor:
    """silu of the first half of x[T,2I] times the second half -> [T,I]."""
    tape = tape_for(x)
    if tape is None or x.shape[-1] % 16:
        return activation.silu_mul(x)
    return tape.gate(x)


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x[T,I] times w[O,I] transposed, plus b[O] -> [T,O]."""
    tape = tape_for(x)
    matrix = None if tape is None else _dense(x, w, b)
    if tape is None or matrix is None:
        return products.linear(x, w, b)
    return tape.matrix(x, matrix)


def add_norm_linear(
    x: Tensor, residual: Tensor, norm_w: Tensor, eps: float, w: Tensor, b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(linear of rms_norm(x + residual), x + residual) for x, residual [T,I] and w[O,I]."""
    if tape_for(x) is None:
        return fused.add_norm_linear(x, residual, norm_w, eps, w, b)
    normed, total = add_rms_norm(x, residual, norm_w, eps)
    return linear(normed, w, b), total


def silu_mul_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """linear of silu_mul(x) for x[T,2I] and w[O,I]."""
    if tape_for(x) is None:
        return fused.silu_mul_linear(x, w, b)
    return linear(silu_mul(x), w, b)


def rotary_embedding(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Turn the first 2R elements of each head of q[T,N,H] and k[T,K,H]; cos, sin f32[T,R]."""
    tape = None if interleaved else _tape_for_heads(q, k)
    if tape is None:
        return rotary.rotary(q, k, cos, sin, interleaved)
    return tape.turn(q, k, cos, sin, None, 0.0)


def norm_rotary(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    """rms_norm of each head of q and k by its weight f32[H], then the rotation."""
    whole = 2 * cos.shape[-1] == q.shape[-1] and not interleaved
    tape = _tape_for_heads(q, k) if whole else None
    if tape is None:
        return rotary.norm_rotary(q, k, q_weight, k_weight, eps, cos, sin, interleaved)
    return tape.turn(q, k, cos, sin, (q_weight, k_weight), eps)


def _tape_for_heads(q: Tensor, k: Tensor) -> Tape | None:
    size = q.shape[-1]
    if any(x.shape[0] != 1 or x.stride(1) != size or x.stride(2) != 1 for x in (q, k)):
        return None
    tape = tape_for(q.reshape(1, -1))
    return None if tape is None or tape_for(k.reshape(1, -1)) is None else tape


def _is_short(tape: Tape, size: int) -> bool:
    if size <= longest_row():
        return True
    tape.flush()
    return False


def _dense(x: Tensor, w: Tensor, b: Tensor | None) -> Matrix | None:
    outputs, inputs = w.shape
    fits = w.dtype == x.dtype and w.is_contiguous() and inputs % 64 == 0
    if not fits or inputs > longest_row() or (b is not None and b.dtype != x.dtype):
        return None
    return Matrix(Weights(16, 0, half_of(x.dtype)), w, outputs, inputs, bias=b)


LINEAR = Kernel(linear, products.LINEAR.supports)
ADD_NORM_LINEAR = Kernel(add_norm_linear, fused.ADD_NORM_LINEAR.supports)
SILU_MUL_LINEAR = Kernel(silu_mul_linear, fused.SILU_MUL_LINEAR.supports)
