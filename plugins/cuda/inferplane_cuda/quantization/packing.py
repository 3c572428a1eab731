"""The order in which `stream.cu` reads codes: what each lane of a warp wants lies together.

O outputs, I inputs, G groups. A tile is 16 outputs, a chunk 64 inputs, a unit 32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CHUNK", "TILES", "pack_bytes", "pack_nibbles", "pack_scales", "padded_outputs"]

CHUNK = 64
TILES = 32
"""Outputs are filled up to a multiple: two tiles."""


def padded_outputs(outputs: int) -> int:
    """The outputs there are room for."""
    return -(-outputs // TILES) * TILES


def pack_nibbles(values: Tensor) -> Tensor:
    """int4 codes i8[O,I] -> i32[O/16, I/64, 32, 4]: lane 4g + t, then a word for each quarter.

    Word 2u + j holds inputs 32u + 8t + 4j + e of outputs g (h = 0) and g + 8 (h = 1); code + 8 is
    nibble 2 * (e // 2) + h + 4 * (e % 2).
    """
    parts = _parts(values).to(torch.int32) + 8  # [o, h, g, c, u, t, j, e]
    tiles, _, _, chunks = parts.shape[:4]
    words = torch.zeros((tiles, 8, chunks, 2, 4, 2), dtype=torch.int32, device=values.device)
    for h in range(2):
        for e in range(4):
            words |= parts[:, h, :, :, :, :, :, e] << (4 * (2 * (e // 2) + h + 4 * (e % 2)))
    return words.permute(0, 2, 1, 4, 3, 5).reshape(tiles, chunks, 32, 4).contiguous()


def pack_bytes(values: Tensor) -> Tensor:
    """int8 or fp8 codes [O,I] -> u8[O/16, I/64, 2, 32, 16]: unit, lane, then j, h and e.

    Integers are stored plus 128.
    """
    parts = _parts(values.view(torch.uint8))
    if values.dtype == torch.int8:
        parts = parts ^ 128
    tiles, _, _, chunks = parts.shape[:4]
    return parts.permute(0, 3, 4, 2, 5, 6, 1, 7).reshape(tiles, chunks, 2, 32, 16).contiguous()


def pack_scales(scales: Tensor, outputs: torch.Size) -> Tensor:
    """f32[O or 1, G] -> f32[padded O/32, G, 32]: those of two tiles and a group lie together.

    `outputs` is [O]; [E,O] of a stack, whose O is whole tiles.
    """
    each = scales.float().reshape(*outputs[:-1], -1, scales.shape[-1])
    wide = each.expand(*outputs, -1).flatten(0, -2)
    filled = F.pad(wide, (0, 0, 0, padded_outputs(len(wide)) - len(wide)))
    return filled.view(-1, TILES, scales.shape[-1]).transpose(1, 2).contiguous()


def _parts(values: Tensor) -> Tensor:
    """[O,I] -> [tile, h, g, chunk, unit, t, j, e]; outputs that are not there are 0."""
    outputs, inputs = values.shape
    filled = F.pad(values, (0, 0, 0, padded_outputs(outputs) - outputs))
    return filled.view(-1, 2, 8, inputs // CHUNK, 2, 4, 2, 4)
