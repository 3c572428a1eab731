"""Rotary tables: cosines and sines of each position, computed once. R rotated pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inferplane.model_config import RopeConfig

__all__ = ["Rotary", "frequencies"]


class Rotary:
    """positions i32[T] -> (cos f32[T,R], sin f32[T,R])."""

    __slots__ = ("cos", "num_pairs", "sin")

    def __init__(self, rope: RopeConfig, head_dim: int, max_positions: int, device: str) -> None:
        turns, strength = frequencies(rope, head_dim, max_positions)
        angles = torch.arange(max_positions, dtype=torch.float32)[:, None] * turns
        self.num_pairs = turns.shape[0]
        self.cos = (angles.cos() * strength).to(device)
        self.sin = (angles.sin() * strength).to(device)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos.index_select(0, positions), self.sin.index_select(0, positions)


def frequencies(rope: RopeConfig, head_dim: int, max_positions: int) -> tuple[Tensor, float]:
    """(radians per position f32[R], what cosines and sines are multiplied by).

    Scalings: linear (position interpolation, arXiv:2306.15595), yarn (arXiv:2309.00071), llama3
    (Meta's models since 3.1), longrope (arXiv:2402.13753), factors (a divisor each).
    """
    rotated = int(head_dim * rope.partial)
    powers = torch.arange(0, rotated, 2, dtype=torch.float32) / rotated
    turns = 1.0 / (rope.theta**powers)
    if rope.kind == "linear":
        return turns / rope.factor, 1.0
    if rope.kind == "factors":
        return turns / torch.tensor(rope.factors), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, turns), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, powers, rotated), _yarn_strength(rope)
    if rope.kind == "longrope":
        return _longrope(rope, turns, max_positions)
    return turns, 1.0


def _llama3(rope: RopeConfig, turns: Tensor) -> Tensor:
    """Slow turns are divided by the factor, fast ones stay, those between are blended."""
    wavelength = 2 * math.pi / turns
    low = rope.original_max_position / rope.low_freq_factor
    high = rope.original_max_position / rope.high_freq_factor
    blend = (rope.original_max_position / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    slowed = torch.where(wavelength > low, turns / rope.factor, turns)
    between = (1 - blend) * slowed / rope.factor + blend * slowed
    is_between = ~(wavelength < high) & ~(wavelength > low)
    return torch.where(is_between, between, slowed)


def _yarn(rope: RopeConfig, powers: Tensor, rotated: int) -> Tensor:
    def dimension(rotations: float) -> float:
        ratio = rope.original_max_position / (rotations * 2 * math.pi)
        return rotated * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    high += 0.001 if low == high else 0.0
    steps = torch.arange(rotated // 2, dtype=torch.float32)
    kept = 1 - ((steps - low) / (high - low)).clamp(0, 1)
    wide = rope.theta**powers
    return 1.0 / (rope.factor * wide) * (1 - kept) + 1.0 / wide * kept


def _yarn_strength(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scaled(by: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * by * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scaled(rope.mscale) / scaled(rope.mscale_all_dim)
    return scaled(1.0)


def _longrope(rope: RopeConfig, turns: Tensor, max_positions: int) -> tuple[Tensor, float]:
    """One set of factors for the whole run: results must not depend on a request's length."""
    is_long = max_positions > rope.original_max_position
    factors = torch.tensor(rope.long_factors if is_long else rope.factors)
    strength = rope.attention_factor
    if strength is None:
        factor = rope.factor
        strength = (
            1.0
            if factor <= 1
            else math.sqrt(1 + math.log(factor) / math.log(rope.original_max_position))
        )
    return turns / factors, strength
