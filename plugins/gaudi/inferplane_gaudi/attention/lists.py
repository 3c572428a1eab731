"""Host work of a step: the list of blocks that its rows read, instead of a table a row.

R rows (a decoding sequence, or any token), P table width, L entries of the list.
"""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import Array

__all__ = ["list_blocks"]


def list_blocks(
    tables: Array, positions: Array, block_size: int, window: int | None, length: int
) -> dict[str, Array]:
    """Blocks that rows at `positions` i32[R] read by `tables` i32[R,P], row after row.

    i32[L] each: `blocks`; `groups`, the row a block belongs to; `first` and `last`, the slots of
    the block that its row sees. Entries up to `length` (0: as many as there are) name block 0,
    group R and no slot. Block 0 itself is nobody's: padding rows list nothing. Raises ValueError
    when more blocks are in use than `length`.
    """
    low_R = np.zeros_like(positions)
    if window is not None:
        low_R = np.maximum(positions - window + 1, 0)
    place_P = np.arange(tables.shape[1], dtype=np.int32)
    in_use = (place_P <= (positions // block_size)[:, None]) & (tables > 0)
    in_use &= place_P >= (low_R // block_size)[:, None]
    rows, places = np.nonzero(in_use)
    count = len(rows)
    total = length or count
    if count > total:
        raise ValueError(f"{count} blocks are in use, the bucket has room for {total}")
    begin = places * block_size
    lists = {
        "blocks": (tables[rows, places], 0),
        "groups": (rows, len(positions)),
        "first": (np.maximum(low_R[rows] - begin, 0), 0),
        "last": (np.minimum(positions[rows] - begin, block_size - 1), -1),
    }
    return {name: _filled(values, total, rest) for name, (values, rest) in lists.items()}


def _filled(values: Array, total: int, rest: int) -> Array:
    out = np.full(total, rest, np.int32)
    out[: len(values)] = values
    return out
