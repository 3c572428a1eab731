"""How each catalogue op of this plugin records itself on symbols; arithmetic is elsewhere.

T tokens, R samples, D hidden size, O outputs, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from inferplane_cpu.compiler.capture import Columns, NotLoweredError, Recording, Symbol

__all__ = [
    "add_rms_norm",
    "argmax",
    "embedding",
    "fused_moe",
    "gelu_mul",
    "linear",
    "logits",
    "rms_norm",
    "rotary",
    "silu_mul",
]


def _tail(x: Symbol) -> tuple[int, ...]:
    return tuple(x.meta.shape[1:])


def embedding(recording: Recording, ids: Symbol, w: Tensor) -> Symbol:
    """ids[T] -> [T,D]."""
    if not ids.before:
        raise NotLoweredError("an embedding of computed ids")
    size = w.shape[1]
    return recording.add(
        "embedding", (), (size,), per_sample=False, dtype=w.dtype, ids=ids, weight=w
    )


def rms_norm(recording: Recording, x: Symbol, w: Tensor, eps: float) -> Symbol:
    """[T,D], or [T,N,H] with one norm a head."""
    return recording.add("rms_norm", (x,), _tail(x), weight=w, eps=eps)


def add_rms_norm(
    recording: Recording, x: Symbol, residual: Symbol, w: Tensor, eps: float
) -> tuple[Symbol, Symbol]:
    """(norm of the sum, the sum)."""
    total = recording.add("add", (x, residual), _tail(x))
    return rms_norm(recording, total, w, eps), total


def silu_mul(recording: Recording, x: Symbol) -> Symbol:
    """[T,2I] -> [T,I]."""
    return recording.add("gate", (x,), (x.meta.shape[1] // 2,), act="silu")


def gelu_mul(recording: Recording, x: Symbol) -> Symbol:
    """[T,2I] -> [T,I], tanh-approximated."""
    return recording.add("gate", (x,), (x.meta.shape[1] // 2,), act="gelu")


def linear(recording: Recording, x: Symbol, w: Tensor, b: Tensor | None) -> Symbol:
    """[T,I] -> [T,O]."""
    return recording.add("linear", (x,), (w.shape[0],), weight=w, bias=b)


def logits(recording: Recording, x: Symbol, w: Tensor) -> Symbol:
    """[R,D] -> f32[R,V]."""
    return recording.add("linear", (x,), (w.shape[0],), dtype=torch.float32, weight=w)


def fused_moe(recording: Recording, x: Symbol, *arguments: Any) -> Symbol:
    """Raises NotLoweredError: which rows an expert multiplies is known in the step alone."""
    raise NotLoweredError("routed experts, for which a program has no instruction")


def argmax(recording: Recording, x: Symbol) -> Symbol:
    """f32[R,V] -> i32[R]: the best id, -1 for a row that failed."""
    return recording.add("argmax", (x,), (), dtype=torch.int32)


def rotary(
    recording: Recording, q: Symbol, k: Symbol, cos: Any, sin: Any, interleaved: bool
) -> tuple[Symbol, Symbol]:
    """q[T,N,H], k[T,K,H] -> both turned."""
    widths = prod(_tail(q)), prod(_tail(k))
    turned = recording.add(
        "rotary", (q, k), (sum(widths),), cos=cos, sin=sin, interleaved=interleaved
    )
    node = turned.columns("rotary").node
    return (
        Symbol(q.meta, recording, Columns(node, 0, widths[0])),
        Symbol(k.meta, recording, Columns(node, widths[0], widths[1])),
    )
