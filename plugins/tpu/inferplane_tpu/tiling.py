"""What Pallas kernels ask of shapes, told without torch."""

from __future__ import annotations

__all__ = ["PALLAS", "tiles"]

PALLAS = "pallas"
"""Label of devices whose client takes Pallas kernels."""
_PACKED = {"float32": 1, "bfloat16": 2}
"""Elements in 32 bits."""
_ROWS = 8
"""Of a vector register."""


def tiles(num_kv_heads: int, dtype: str) -> bool:
    """Whether the keys and values of one token, interleaved, make whole tiles of XLA's layout."""
    packed, rest = divmod(2 * num_kv_heads, _PACKED.get(dtype, 1))
    return not rest and (packed in (1, 2, 4, _ROWS) or packed % _ROWS == 0)
