"""The one table of tolerances: how far a kernel may be from the truth, by kind and dtype.

Truth is the core's reference run in float64. A kernel may also be off by twice what the reference
itself is off when it runs in the kernel's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inferplane.interfaces import Array

__all__ = ["FORCED_TOKENS", "FROBENIUS", "KV_DELTA", "Tolerance", "tolerance"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|got - truth| <= absolute + relative * |truth|, element by element."""

    absolute: float
    relative: float

    def excess(self, got: Array, truth: Array, reference: Array | None = None) -> str:
        """ "" when `got` is within; else the worst place. NaN is never within, except for NaN.

        `reference`: what the core's reference yields in the same dtype.
        """
        if got.shape != truth.shape:
            return f"shape {got.shape} instead of {truth.shape}"
        with np.errstate(invalid="ignore"):
            allowed = self.absolute + self.relative * np.abs(truth)
            right = (got == truth) | (np.isnan(got) & np.isnan(truth))
            if reference is not None:
                own = np.abs(reference - truth)
                own = own[np.isfinite(own)]  # what overflows in this dtype overflows for all
                allowed = np.maximum(allowed, 2.0 * own.max(initial=0.0))
                right |= got == reference
            wrong = ~(right | (np.abs(got - truth) <= allowed))
        if not wrong.any():
            return ""
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        return (
            f"{int(wrong.sum())} of {wrong.size} elements, first at {list(at)}: "
            f"{got[at]:.6g} instead of {truth[at]:.6g}"
        )


_TABLE: Mapping[str, Mapping[str, Tolerance]] = {
    "elementwise": {
        "float32": Tolerance(1e-6, 1e-5),
        "float16": Tolerance(1e-3, 2e-3),
        "bfloat16": Tolerance(8e-3, 1.6e-2),
    },
    "linear": {
        "float32": Tolerance(1e-5, 0.0),
        "float16": Tolerance(2e-3, 1e-2),
        "bfloat16": Tolerance(1e-2, 2e-2),
    },
    "attention": {
        "float32": Tolerance(1e-5, 1e-4),
        "float16": Tolerance(2e-3, 1e-2),
        "bfloat16": Tolerance(2e-2, 2e-2),
    },
    "exact": dict.fromkeys(("float32", "float16", "bfloat16"), Tolerance(0.0, 0.0)),
}

FROBENIUS: Mapping[str, float] = {"fp8_kv": 8e-2, "linear_8bit": 4e-2, "linear_4bit": 1e-2}
"""Largest |got - truth| / |truth| in the Frobenius norm, by what is quantised."""

FORCED_TOKENS: Mapping[str, tuple[float, float]] = {
    "float32": (1e-4, 1.0),
    "float16": (0.02, 0.995),
    "bfloat16": (0.05, 0.99),
}
"""Under forced tokens: (mean |delta log-probability|, share of positions with the same best)."""

KV_DELTA = 0.10
"""Mean |delta log-probability| of a KV cache in 8 bits, against one in the model's own dtype."""


def tolerance(
    row: str, dtype: str, inner: int = 1, factor: float = 1.0, scale: float = 1.0
) -> Tolerance:
    """The table's entry; a float32 `linear` may err in proportion to sqrt(`inner`).

    `factor` is what a plugin's conformance.toml widens the row by; `scale` the size of the inputs,
    which the absolute part is meant for.
    """
    entry = _TABLE[row][dtype]
    grown = math.sqrt(inner) if (row, dtype) == ("linear", "float32") else 1.0
    return Tolerance(entry.absolute * grown * factor * scale, entry.relative * factor)
