"""From times of single requests to the figures people compare; arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Spread", "Timing", "goodput", "percentile", "summarise"]


@dataclass(frozen=True, slots=True)
class Timing:
    """One request as its client saw it; seconds from when it was due, not from when it was sent.

    An open loop measures from the due time, so that a slow client cannot hide queueing.
    """

    first_s: float
    """To the first token (TTFT)."""
    end_s: float
    gaps_s: tuple[float, ...]
    """Between the arrivals of two chunks (ITL)."""
    num_output: int
    error: str = ""

    @property
    def per_token_s(self) -> float:
        """TPOT: what each token after the first took."""
        return (self.end_s - self.first_s) / (self.num_output - 1) if self.num_output > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least `share` of all do not exceed; NaN if none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _spread_ms(values: Sequence[float]) -> Spread:
    scaled = [1000 * value for value in values]
    mean = sum(scaled) / len(scaled) if scaled else math.nan
    return Spread(mean, *(percentile(scaled, share) for share in (0.5, 0.9, 0.99)))


def goodput(timings: Sequence[Timing], took_s: float, first_s: float, per_token_s: float) -> float:
    """Requests a second that met both objectives."""
    good = [t for t in timings if t.first_s <= first_s and t.per_token_s <= per_token_s]
    return len([t for t in good if not t.error]) / took_s


def summarise(
    timings: Sequence[Timing], took_s: float, first_s: float, per_token_s: float
) -> dict[str, object]:
    """All figures of one serving run; objectives in seconds."""
    done = [timing for timing in timings if not timing.error]
    tokens = sum(timing.num_output for timing in done)
    return {
        "requests": len(timings),
        "failed": len(timings) - len(done),
        "first_error": next((t.error for t in timings if t.error), None),
        "seconds": took_s,
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / took_s,
        "requests_per_s": len(done) / took_s,
        "goodput_per_s": goodput(timings, took_s, first_s, per_token_s),
        "objectives": {"ttft_ms": 1000 * first_s, "tpot_ms": 1000 * per_token_s},
        "ttft_ms": asdict(_spread_ms([t.first_s for t in done])),
        "tpot_ms": asdict(_spread_ms([t.per_token_s for t in done if t.num_output > 1])),
        "itl_ms": asdict(_spread_ms([gap for t in done for gap in t.gaps_s])),
        "e2e_ms": asdict(_spread_ms([t.end_s for t in done])),
    }
