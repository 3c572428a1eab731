"""The ops as registered: captured into a program on symbols, computed by torch otherwise."""

from __future__ import annotations

from inferplane.ops.reference import embedding as _embedding
from inferplane_cpu.compiler import kernels
from inferplane_cpu.compiler.capture import captured
from inferplane_cpu.kernels import activation, moe, norm
from inferplane_cpu.kernels import linear as _linear
from inferplane_cpu.kernels import rotary as _rotary

__all__ = [
    "add_rms_norm",
    "embedding",
    "fused_moe",
    "gelu_mul",
    "linear",
    "logits",
    "rms_norm",
    "rotary",
    "silu_mul",
]

rms_norm = captured(norm.rms_norm, kernels.rms_norm)
add_rms_norm = captured(norm.add_rms_norm, kernels.add_rms_norm)
rotary = captured(_rotary.rotary, kernels.rotary)
silu_mul = captured(activation.silu_mul, kernels.silu_mul)
gelu_mul = captured(activation.gelu_mul, kernels.gelu_mul)
embedding = captured(_embedding.embedding, kernels.embedding)
linear = captured(_linear.linear, kernels.linear)
logits = captured(_linear.logits, kernels.logits)
fused_moe = captured(moe.fused_moe, kernels.fused_moe)
