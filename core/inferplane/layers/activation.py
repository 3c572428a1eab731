"""Which op computes the activation a configuration names."""

from __future__ import annotations

from inferplane.errors import ModelError

__all__ = ["gate_op", "plain_op"]

_GATES = {
    "silu": "silu_mul/1",
    "swish": "silu_mul/1",
    "gelu_pytorch_tanh": "gelu_mul/1",
    "gelu_tanh": "gelu_mul/1",
    "gelu_new": "gelu_mul/1",
}
_PLAIN = {
    "gelu": "gelu_erf/1",
    "gelu_pytorch_tanh": "gelu/1",
    "gelu_tanh": "gelu/1",
    "gelu_new": "gelu/1",
}


def gate_op(activation: str) -> str:
    """The op for a gated feed-forward part. Raises ModelError for an unknown activation."""
    return _find(activation, _GATES)


def plain_op(activation: str) -> str:
    """The op for an ungated feed-forward part. Raises ModelError for an unknown activation."""
    return _find(activation, _PLAIN)


def _find(activation: str, known: dict[str, str]) -> str:
    if activation not in known:
        raise ModelError(
            f"activation {activation!r} is unknown (known: {', '.join(sorted(known))})"
        )
    return known[activation]
