"""How the kit's rows draw their tokens, as arrays of a SamplingBatch. R rows, V vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from inferplane.interfaces import Array, Ragged, SamplingBatch, SamplingParam

__all__ = ["Draw", "DrawingRow", "sampling_batch"]


@dataclass(frozen=True)
class Draw:
    """The sampling of one row; the default is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    num_logprobs: int = -1
    penalties: tuple[float, float, float] | None = None
    """(presence, frequency, repetition)"""
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: frozenset[int] | None = None
    """A bitmask with exactly these ids."""
    vocab_size: int = 0
    """Needed with `allowed`."""

    def params(self) -> set[SamplingParam]:
        """What of the sampler this row needs, in the words of SamplerCaps."""
        used: dict[SamplingParam, bool] = {
            "temperature": self.temperature > 0,
            "seed": self.temperature > 0,
            "top_k": self.top_k > 0,
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "logprobs": self.num_logprobs >= 0,
            "penalties": self.penalties is not None,
            "bias": bool(self.bias),
            "bitmask": self.allowed is not None,
        }
        return {name for name, on in used.items() if on}


@dataclass(frozen=True)
class DrawingRow:
    """One sampled row of a step."""

    draw: Draw
    tokens: Sequence[int]
    """Prompt and everything drawn since."""
    num_prompt: int
    position: int
    """Index of the token to be drawn."""


def sampling_batch(rows: Sequence[DrawingRow]) -> SamplingBatch:
    """The arrays of these rows."""
    draws = [row.draw for row in rows]
    penalised = any(draw.penalties for draw in draws)
    masked = any(draw.allowed is not None for draw in draws)
    return SamplingBatch(
        temperature=np.array([d.temperature for d in draws], np.float32),
        top_k=np.array([d.top_k for d in draws], np.int32),
        top_p=np.array([d.top_p for d in draws], np.float32),
        min_p=np.array([d.min_p for d in draws], np.float32),
        seed=np.array([d.seed for d in draws], np.uint64),
        position=np.array([row.position for row in rows], np.uint64),
        num_logprobs=np.array([d.num_logprobs for d in draws], np.int32),
        penalties=_penalties(draws) if penalised else None,
        seen=_seen(rows) if penalised else None,
        bias=_ragged([d.bias for d in draws]) if any(d.bias for d in draws) else None,
        bitmask=_bitmask(draws) if masked else None,
    )


def _penalties(draws: Sequence[Draw]) -> Array:
    return np.array([d.penalties or (0.0, 0.0, 1.0) for d in draws], np.float32)


def _seen(rows: Sequence[DrawingRow]) -> Ragged:
    tables: list[Mapping[int, float]] = []
    for row in rows:
        counts = Counter(row.tokens[row.num_prompt :])
        seen = {token: float(counts[token]) for token in dict.fromkeys(row.tokens)}
        tables.append(seen if row.draw.penalties else {})
    return _ragged(tables)


def _ragged(tables: Sequence[Mapping[int, float]]) -> Ragged:
    start = np.concatenate(([0], np.cumsum([len(t) for t in tables]))).astype(np.int32)
    ids = [token for table in tables for token in table]
    values = [value for table in tables for value in table.values()]
    return Ragged(start, np.array(ids, np.int32), np.array(values, np.float32))


def _bitmask(draws: Sequence[Draw]) -> Array:
    width = -(-max(d.vocab_size for d in draws) // 32)
    bits = np.ones((len(draws), width * 32), bool)
    for row, draw in enumerate(draws):
        if draw.allowed is not None:
            bits[row] = False
            bits[row, list(draw.allowed)] = True
    packed = np.packbits(bits, axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4").astype(np.uint32)
