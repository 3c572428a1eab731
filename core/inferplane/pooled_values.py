"""What becomes of the vectors and scores that a model yields for whole texts: host arithmetic.

D vector size, C classes.
"""

from __future__ import annotations

import numpy as np

from inferplane.errors import RequestError
from inferplane.interfaces import Array

__all__ = ["class_shares", "cosine", "relevance", "shortened", "unit", "vector_of"]


def vector_of(data: bytes) -> Array:
    """f32[D] from what crossed the socket."""
    values: Array = np.frombuffer(data, "<f4")
    return values


def unit(vector: Array) -> Array:
    """The vector with length 1; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    scaled: Array = vector / np.float32(max(length, 1e-12))
    return scaled


def shortened(vector: Array, size: int) -> Array:
    """The first `size` numbers: what models trained for it keep (arXiv:2205.13147)."""
    if size > len(vector):
        raise RequestError(
            "out_of_range", f"dimensions {size}: the vectors have {len(vector)}", "dimensions"
        )
    head: Array = vector[:size]
    return head


def cosine(a: Array, b: Array) -> float:
    """Of the angle between two vectors."""
    return float(np.dot(unit(a), unit(b)))


def relevance(scores: Array) -> float:
    """The one score of a pair, between 0 and 1: the logistic function of f32[1]."""
    return float(1.0 / (1.0 + np.exp(-np.float64(scores[0]))))


def class_shares(scores: Array) -> list[float]:
    """Probabilities of C classes, which sum to 1; one class alone has the logistic function."""
    if len(scores) == 1:
        return [relevance(scores)]
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return [float(share) for share in powers / powers.sum()]
