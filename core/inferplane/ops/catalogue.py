"""Every op a model may use: name, reference, dimensions. Imports no torch.

Rules for all of them (docs/writing-a-plugin.md): functional, output shapes follow from input
shapes, no reads by the host. The last dimension of each input is contiguous; rows may be strided,
since models pass slices of merged projections. Norm weights and rotary tables are always f32,
whatever the activations' dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from inferplane.errors import UnknownNameError

__all__ = ["OPS", "OpInfo", "Tolerance", "find_op"]

Tolerance = Literal["elementwise", "linear", "attention", "exact"]
"""Which row of the kit's table of tolerances holds."""


@dataclass(frozen=True, slots=True)
class OpInfo:
    """One signature. A changed one is a new name: "op/2"."""

    name: str
    target: str
    """"module:attribute" of the torch reference, which is fallback and oracle."""
    signature: str
    """Arguments with shapes, and the result."""
    dims: tuple[str, ...]
    """Keys of `OpSite.dims` that the model states when it binds the op."""
    tolerance: Tolerance
    required: bool = True
    """False: an optional fusion that nothing in the core calls without asking first."""

    def reference(self) -> Any:
        """The torch function; imports torch."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


_REFERENCE = "inferplane.ops.reference."
_ALL = (
    OpInfo(
        "rms_norm/1", _REFERENCE + "norm:rms_norm",
        "(x[...,H], w f32[H], eps) -> [...,H]", ("H",), "elementwise",
    ),
    OpInfo(
        "add_rms_norm/1", _REFERENCE + "norm:add_rms_norm",
        "(x[...,H], residual[...,H], w f32[H], eps) -> (y[...,H], residual[...,H])",
        ("H",), "elementwise",
    ),
    OpInfo(
        "layer_norm/1", _REFERENCE + "norm:layer_norm",
        "(x[...,H], w f32[H], b f32[H], eps) -> [...,H]", ("H",), "elementwise",
    ),
    OpInfo(
        "rotary/1", _REFERENCE + "rotary:rotary",
        "(q[T,N,H], k[T,K,H], cos f32[T,R], sin f32[T,R], interleaved) -> (q, k); "
        "2R of the H elements of a head turn",
        ("N", "K", "H", "R"), "elementwise",
    ),
    OpInfo(
        "norm_rotary/1", _REFERENCE + "rotary:norm_rotary",
        "(q[T,N,H], k[T,K,H], q_w f32[H], k_w f32[H], eps, cos f32[T,R], sin f32[T,R], "
        "interleaved) -> (q, k): rms_norm of each head, then rotary",
        ("N", "K", "H", "R"), "elementwise", required=False,
    ),
    OpInfo(
        "silu_mul/1", _REFERENCE + "activation:silu_mul",
        "(x[T,2I]) -> [T,I]: silu of the first half times the second", ("I",), "elementwise",
    ),
    OpInfo(
        "gelu_mul/1", _REFERENCE + "activation:gelu_mul",
        "(x[T,2I]) -> [T,I]: tanh-approximated gelu of the first half times the second",
        ("I",), "elementwise",
    ),
    OpInfo(
        "gelu/1", _REFERENCE + "activation:gelu",
        "(x[T,I]) -> [T,I]: tanh-approximated gelu", ("I",), "elementwise",
    ),
    OpInfo(
        "gelu_erf/1", _REFERENCE + "activation:gelu_erf",
        "(x[T,I]) -> [T,I]: gelu by the error function", ("I",), "elementwise",
    ),
    OpInfo(
        "embedding/1", _REFERENCE + "embedding:embedding",
        "(ids i32[T], w[V,D]) -> [T,D]", ("V", "D"), "exact",
    ),
    OpInfo(
        "linear/1", _REFERENCE + "linear:linear",
        "(x[T,I], w[O,I], b[O] or None) -> [T,O]", ("I", "O"), "linear",
    ),
    OpInfo(
        "add_norm_linear/1", _REFERENCE + "linear:add_norm_linear",
        "(x[T,I], residual[T,I], norm_w f32[I], eps, w[O,I], b[O] or None) -> (y[T,O], "
        "residual[T,I]): add_rms_norm, then linear",
        ("I", "O"), "linear", required=False,
    ),
    OpInfo(
        "silu_mul_linear/1", _REFERENCE + "linear:silu_mul_linear",
        "(x[T,2I], w[O,I], b[O] or None) -> [T,O]: silu_mul, then linear",
        ("I", "O"), "linear", required=False,
    ),
    OpInfo(
        "logits/1", _REFERENCE + "linear:logits",
        "(x[R,D], w[V,D]) -> f32[R,V]", ("D", "V"), "linear",
    ),
    OpInfo(
        "quantize_activation/1", _REFERENCE + "quantize:quantize_activation",
        "(x[T,I], scheme) -> (q[T,I], scale f32[T,1] or [1,1]); scheme is int8_token, "
        "int8_tensor, fp8_e4m3_token or fp8_e4m3_tensor",
        ("I",), "exact",
    ),
    OpInfo(
        "scaled_matmul/1", _REFERENCE + "quantize:scaled_matmul",
        "(a[T,I], b[O,I], scale_a f32[T,1] or [1,1], scale_b f32[O,1] or [1,1], dtype) -> [T,O]",
        ("I", "O"), "linear",
    ),
    OpInfo(
        "moe_topk/1", _REFERENCE + "moe:moe_topk",
        "(logits[T,E], k, renormalize, scoring) -> (w f32[T,k], ids i32[T,k]); scoring is "
        "softmax or sigmoid",
        ("E", "k"), "elementwise",
    ),
    OpInfo(
        "fused_moe/1", _REFERENCE + "moe:fused_moe",
        "(x[T,D], w13[E,2I,D], w2[E,D,I], w f32[T,k], ids i32[T,k], act) -> [T,D]; act is silu "
        "or gelu; no token is dropped",
        ("D", "I", "E", "k"), "linear",
    ),
    OpInfo(
        "sample/1", _REFERENCE + "sampling:sample",
        "(logits f32[R,V], sampling) -> (ids i32[R], logprobs)", ("V",), "exact",
    ),
)  # fmt: skip

OPS: Mapping[str, OpInfo] = {info.name: info for info in _ALL}
"""Op name with version -> what it is."""


def find_op(name: str) -> OpInfo:
    """The op of that name. Raises UnknownNameError listing the known ones."""
    if name not in OPS:
        raise UnknownNameError(f"no op {name!r} (known: {', '.join(sorted(OPS))})")
    return OPS[name]
