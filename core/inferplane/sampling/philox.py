"""Counter-based random numbers, Philox4x32-10, on arrays: no state, so no order to depend on.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import Array

__all__ = ["philox4x32", "uniforms"]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: Array, key: Array) -> Array:
    """Ten rounds: u32[…,4] counters under u32[…,2] keys give u32[…,4] random words."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = (key[..., i].astype(np.uint64) for i in range(2))
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _WORD) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _WORD) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)


def uniforms(seed: Array, position: Array) -> Array:
    """f64[R] in [0, 1), one for each (seed u64[R], position u64[R]): the top 24 bits of word 0.

    Counter words are (position low, position high, 0, 0), key words (seed low, seed high).
    """
    position, seed = position.astype(np.uint64), seed.astype(np.uint64)
    zero = np.zeros_like(position)
    counter = np.stack((position & _LOW, position >> _WORD, zero, zero), axis=-1)
    key = np.stack((seed & _LOW, seed >> _WORD), axis=-1)
    words = philox4x32(counter, key)[..., 0]
    uniform: Array = (words >> np.uint32(8)).astype(np.float64) * 2.0**-24
    return uniform
