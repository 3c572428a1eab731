"""Small integers packed into 32-bit words, lowest bits first and without gaps.

GPTQ, AWQ and compressed-tensors all store their codes so; they differ in the dimension they pack
and in the order of the codes. B bits, W words, N codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack", "packed_words", "unpack"]

_PIECE = 2**22
"""Codes unpacked at once: temporaries are 24 bytes a code."""


def packed_words(count: int, bits: int) -> int:
    """Words that hold `count` codes."""
    return -(-count * bits // 32)


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each row: words i32[R,W] -> u8[R,count], values 0..2^bits-1.

    `bits` is 1 to 8; a code may lie across two words (3 bits: 32 codes in 3 words).
    """
    if 32 % bits == 0:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
        codes = torch.bitwise_and(words[..., None] >> shifts, 2**bits - 1)
        return codes.to(torch.uint8).flatten(-2)[..., :count]
    starts = torch.arange(count, device=words.device) * bits
    first, shift = starts // 32, starts % 32
    second = (first + 1).clamp(max=words.shape[-1] - 1)
    out = torch.empty(*words.shape[:-1], count, dtype=torch.uint8, device=words.device)
    step = max(1, _PIECE // max(count, 1))
    for row in range(0, words.shape[0], step):
        part = words[row : row + step].long() & 0xFFFFFFFF
        pair = part[..., first] | (part[..., second] << 32)
        out[row : row + step] = ((pair >> shift) & (2**bits - 1)).to(torch.uint8)
    return out


def pack(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `unpack`: codes u8[R,N] -> words i32[R,W], the last one padded with zeros."""
    rows, count = codes.shape
    words = torch.zeros(rows, packed_words(count, bits) + 1, dtype=torch.int64, device=codes.device)
    starts = torch.arange(count, device=codes.device) * bits
    first, shift = (starts // 32).expand(rows, -1), starts % 32
    wide = codes.long() << shift
    words.scatter_add_(1, first, wide & 0xFFFFFFFF)
    words.scatter_add_(1, first + 1, wide >> 32)
    words = words[:, :-1]
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
