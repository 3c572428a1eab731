"""Inputs for each op of the catalogue: sizes, strides and values in which kernels go wrong.

T tokens, H normalised or head size, I inputs or inner size, O outputs, N heads, K KV heads,
R rotated pairs, V vocabulary, D model size, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Make", "OpCase", "op_cases"]

TOKENS = (1, 7, 13, 16, 33)
"""One, primes, a multiple of 8, one more than a multiple of 16."""

Build: TypeAlias = "Callable[[Make, int, Mapping[str, int]], tuple[Any, ...]]"


@dataclass(frozen=True)
class OpCase:
    """One call: the site's dimensions, and arguments in float64 that every dtype is cast from."""

    name: str
    dims: Mapping[str, int]
    arguments: tuple[Any, ...]
    inner: int
    """Length of the sums, for the tolerance."""
    scale: float
    """Size of the activations: what cancels among large numbers leaves large errors."""


@dataclass(frozen=True)
class Make:
    """Random tensors of one case."""

    generator: torch.Generator
    scale: float
    strided: bool

    def rows(self, *shape: int) -> Tensor:
        """Activations; rows of a wider tensor when strided, as slices of merged projections are."""
        wide = shape[-1] + (8 if self.strided else 0)
        values = torch.randn(*shape[:-1], wide, generator=self.generator, dtype=torch.float64)
        return (values * self.scale)[..., : shape[-1]]

    def weight(self, *shape: int) -> Tensor:
        """Weights of moderate size, contiguous."""
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return values / math.sqrt(shape[-1])

    def norm(self, size: int) -> Tensor:
        """A norm's weight; stays float32."""
        values = torch.randn(size, generator=self.generator, dtype=torch.float64)
        return (1.0 + 0.1 * values).float()

    def table(self, num_tokens: int, pairs: int) -> tuple[Tensor, Tensor]:
        """cos and sin; stay float32."""
        angles = torch.rand(num_tokens, pairs, generator=self.generator) * 6.3
        return angles.cos(), angles.sin()

    def ids(self, below: int, *shape: int) -> Tensor:
        """i32 ids."""
        return torch.randint(below, shape, generator=self.generator, dtype=torch.int32)


def op_cases(op: str) -> Iterator[OpCase]:
    """Every case of an op; nothing for one the kit does not know."""
    for build, sizes in _CASES.get(op, ()):
        for dims in sizes:
            for num_tokens in TOKENS:
                for kind, scale, strided in (
                    ("plain", 1.0, False),
                    ("strided", 1.0, True),
                    ("large", 300.0, False),
                    ("small", 1e-4, False),
                ):
                    if kind in ("large", "small") and num_tokens != TOKENS[1]:
                        continue
                    seed = hash((num_tokens, *dims.values())) % 2**31
                    make = Make(torch.Generator().manual_seed(seed), scale, strided)
                    yield OpCase(
                        f"{op} T={num_tokens} {_told(dims)} {kind}",
                        dims,
                        build(make, num_tokens, dims),
                        max(dims.get("I", 1), dims.get("D", 1), dims.get("H", 1)),
                        max(scale, 1.0),
                    )


def _told(dims: Mapping[str, int]) -> str:
    return " ".join(f"{key}={value}" for key, value in dims.items())


def _rms_norm(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.rows(t, d["H"]), m.norm(d["H"]), 1e-5


def _add_rms_norm(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.rows(t, d["H"]), m.rows(t, d["H"]), m.norm(d["H"]), 1e-5


def _layer_norm(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.rows(t, d["H"]), m.norm(d["H"]), m.norm(d["H"]), 1e-5


def _heads(m: Make, t: int, d: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """q and k as slices of one merged projection."""
    count, size = d["N"] + d["K"], d["H"]
    merged = m.rows(t, count * size).reshape(t, count, size)
    return merged[:, : d["N"]], merged[:, d["N"] :]


def _rotary(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return *_heads(m, t, d), *m.table(t, d["R"]), False


def _rotary_interleaved(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return *_heads(m, t, d), *m.table(t, d["R"]), True


def _norm_rotary(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    norms = m.norm(d["H"]), m.norm(d["H"])
    return *_heads(m, t, d), *norms, 1e-6, *m.table(t, d["R"]), False


def _gated(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return (m.rows(t, 2 * d["I"]),)


def _plain(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return (m.rows(t, d["I"]),)


def _embedding(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.ids(d["V"], t), m.weight(d["V"], d["D"])


def _linear(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.rows(t, d["I"]), m.weight(d["O"], d["I"]), None


def _linear_bias(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.rows(t, d["I"]), m.weight(d["O"], d["I"]), m.weight(d["O"])


def _logits(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    return m.rows(t, d["D"]), m.weight(d["V"], d["D"])


def _moe_topk(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    # spread far enough apart that no dtype makes two scores equal
    order = torch.rand(t, d["E"], generator=m.generator).argsort(-1)
    return (order.double() - d["E"] / 2, d["k"], True, "softmax")


def _fused_moe(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    ids = torch.rand(t, d["E"], generator=m.generator).argsort(-1)[:, : d["k"]].int()
    shares = torch.rand(t, d["k"], generator=m.generator)
    w13, w2 = m.weight(d["E"], 2 * d["I"], d["D"]), m.weight(d["E"], d["D"], d["I"])
    return m.rows(t, d["D"]), w13, w2, shares / shares.sum(-1, keepdim=True), ids, "silu"


def _fused_moe_skewed(m: Make, t: int, d: Mapping[str, int]) -> tuple[Any, ...]:
    """Every token goes to the same k experts, the last ones first: the others get none."""
    x, w13, w2, shares, _, _ = _fused_moe(m, t, d)
    last = torch.arange(d["E"] - 1, d["E"] - 1 - d["k"], -1, dtype=torch.int32)
    return x, w13, w2, shares, last.repeat(t, 1), "gelu"


_NORM = ({"H": 64}, {"H": 33}, {"H": 576})
_ROTARY = ({"N": 4, "K": 2, "H": 64, "R": 32}, {"N": 3, "K": 1, "H": 16, "R": 4})
_NORM_ROTARY = ({"N": 4, "K": 2, "H": 64, "R": 32}, {"N": 3, "K": 1, "H": 128, "R": 64})
_INNER = ({"I": 64}, {"I": 33}, {"I": 1536})
_LINEAR = ({"I": 64, "O": 48}, {"I": 33, "O": 7}, {"I": 576, "O": 192})
_EXPERTS = ({"D": 64, "I": 32, "E": 4, "k": 2}, {"D": 33, "I": 7, "E": 9, "k": 1})
_CASES: Mapping[str, tuple[tuple[Build, tuple[Mapping[str, int], ...]], ...]] = {
    "rms_norm/1": ((_rms_norm, _NORM),),
    "add_rms_norm/1": ((_add_rms_norm, _NORM),),
    "layer_norm/1": ((_layer_norm, _NORM),),
    "rotary/1": ((_rotary, _ROTARY), (_rotary_interleaved, _ROTARY)),
    "norm_rotary/1": ((_norm_rotary, _NORM_ROTARY),),
    "silu_mul/1": ((_gated, _INNER),),
    "gelu_mul/1": ((_gated, _INNER),),
    "gelu/1": ((_plain, _INNER),),
    "gelu_erf/1": ((_plain, _INNER),),
    "embedding/1": ((_embedding, ({"V": 97, "D": 64}, {"V": 5, "D": 33})),),
    "linear/1": ((_linear, _LINEAR), (_linear_bias, _LINEAR)),
    "logits/1": ((_logits, ({"D": 64, "V": 97}, {"D": 33, "V": 384})),),
    "moe_topk/1": ((_moe_topk, ({"E": 8, "k": 2}, {"E": 5, "k": 1})),),
    "fused_moe/1": ((_fused_moe, _EXPERTS), (_fused_moe_skewed, _EXPERTS)),
}
