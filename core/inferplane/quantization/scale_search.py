"""Scales of four-bit groups by search: the steps that leave the least squared error of the weights.

The largest weight of a group decides its scale when it is rounded to nearest; a little less or more
often serves all the others better. Each candidate is refitted by least squares to the codes it
gives, as ggml's make_qx_quants does, and the best one is kept (the search for clipping of AWQ,
Lin et al. 2023, arXiv:2306.00978, is the same without the refit). N groups of S weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["range_steps", "symmetric_scales"]

_TINY = 1e-30
_SHARES = (1.0, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15)
"""How many steps the largest weight may take, as a share of the eight below zero."""
_RANGES = (1.0, 0.93, 0.86)
"""Shares of a group's range that sixteen steps may cover; refitting makes up for gaps between."""
_PIECE = 4096
"""Groups searched at once: their temporaries stay in the processor's cache."""


def symmetric_scales(groups: Tensor) -> Tensor:
    """f32[N] for groups f32[N,S] that are kept as scale * code, codes -8..7.

    Scales may be negative: the largest weight of a group, whatever its sign, gets the code -8,
    which has no counterpart above zero. Zeros get the scale 0.
    """
    return torch.cat([_symmetric(piece) for piece in torch.split(groups, _PIECE)])


def _symmetric(groups: Tensor) -> Tensor:
    top = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    steps = torch.where(top == 0, top, -8 / top)
    best = groups.new_full((len(groups),), -1.0)
    scales = torch.zeros_like(best)
    for share in _SHARES:
        codes = (groups * (steps * share)).round_().clamp_(-8, 7)
        along = torch.linalg.vecdot(codes, groups)
        size = torch.linalg.vecdot(codes, codes).clamp_min_(_TINY)
        gain = along.square() / size  # of squared error, over a group of zeros
        better = gain > best
        best = torch.where(better, gain, best)
        scales = torch.where(better, along / size, scales)
    return scales


def range_steps(groups: Tensor) -> tuple[Tensor, Tensor]:
    """(step f32[N], least f32[N]) for groups f32[N,S] kept as least + step * code, codes 0..15."""
    parts = [_range(piece) for piece in torch.split(groups, _PIECE)]
    return torch.cat([step for step, _ in parts]), torch.cat([least for _, least in parts])


def _range(groups: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.aminmax(groups, dim=1, keepdim=True)
    whole = (high - low).clamp_min_(_TINY)
    centre = groups.mean(1, keepdim=True)
    away = groups - centre
    best = step = least = groups.new_zeros(0)
    for share in _RANGES:
        one = whole * (share / 15)
        start = low + whole * ((1 - share) / 2)
        codes = ((groups - start) / one).round_().clamp_(0, 15)
        if share == 1.0:  # as rounding to nearest would have it: the error to beat
            best = torch.linalg.vecdot(*[codes.mul(one).add_(start).sub_(groups)] * 2)
            step, least = one[:, 0], start[:, 0]
        mean = codes.mean(1, keepdim=True)
        spread = codes - mean
        size = torch.linalg.vecdot(spread, spread).clamp_min_(_TINY)
        fitted = torch.linalg.vecdot(spread, away) / size
        error = torch.linalg.vecdot(away, away) - fitted.square() * size
        # Refitted steps are used with the codes that are nearest to them, which are no worse.
        better = error < best
        best = torch.where(better, error, best)
        step = torch.where(better, fitted, step)
        least = torch.where(better, centre[:, 0] - fitted * mean[:, 0], least)
    return step, least
