"""Many sequences held at one place, so that the next token can be drawn again and again.

R rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from inferplane.interfaces import Array, SamplingBatch
from inferplane.testing.conformance.drawing import Draw, DrawingRow, sampling_batch
from inferplane.testing.conformance.driver import Driver, Live, Row, Work
from inferplane.testing.conformance.state import Started
from inferplane.testing.reference import ReferenceModel

__all__ = ["Deck", "chi_square_p", "probabilities"]


class Deck:
    """Sequences whose last token is computed anew at each draw; nothing else moves."""

    def __init__(self, started: Started, prompts: Sequence[Sequence[int]]) -> None:
        self.driver: Driver = started.new_driver()
        self.lives: list[Live] = []
        for prompt in prompts:
            live = self.driver.begin(prompt)
            self.driver.prefill(live)
            live.num_prompt = max(1, len(live.tokens) // 2)  # the rest counts as output
            self.lives.append(live)
        self.logits_RV = self._logits(started)

    def step(self, draws: Sequence[Draw | None], order: Sequence[int] | None = None) -> list[Row]:
        """One token for each sequence that has a Draw, in the batch order given; rows by place."""
        places = [p for p in (order or range(len(self.lives))) if draws[p] is not None]
        rows = [Row() for _ in self.lives]
        for row, place in zip(
            self._run([Work(self.lives[p], 1, draws[p]) for p in places]), places, strict=True
        ):
            rows[place] = row
        return rows

    def tokens(self, how: Callable[[int], Draw]) -> list[int]:
        """One token for each sequence; `how` takes its place."""
        rows = self.step([how(place) for place in range(len(self.lives))])
        return [row.token_ids[0] for row in rows]

    def sampling(self, place: int, draw: Draw) -> SamplingBatch:
        """The arrays of one row, for the oracle."""
        live = self.lives[place]
        return sampling_batch([DrawingRow(draw, live.tokens, live.num_prompt, len(live.tokens))])

    def host_rows(self, places: Sequence[int], others: Draw) -> list[Row]:
        """A step in which some rows' logits are wanted and the others draw."""
        works = [
            Work(live, 1, Draw(), host=True) if place in places else Work(live, 1, others)
            for place, live in enumerate(self.lives)
        ]
        return self._run(works)

    def _run(self, works: list[Work]) -> list[Row]:
        for work in works:
            work.live.computed -= 1
        return self.driver.step(works)

    def _logits(self, started: Started) -> Array:
        """What the device computes, or what it should where it hands no logits over."""
        if started.plan.caps.sampler.host_rows:
            rows = self.host_rows(range(len(self.lives)), Draw())
            logits = [row.logits for row in rows]
            assert all(x is not None for x in logits), "host_rows were asked for"
            return np.stack([np.asarray(x, np.float32) for x in logits])
        model = ReferenceModel(started.model)
        return np.stack([model.logits(x.tokens)[-1].astype(np.float32) for x in self.lives])


def probabilities(logits_V: Array, draw: Draw) -> Array:
    """f64[V]: how likely each token is under temperature, top-k, top-p and min-p."""
    scaled = logits_V.astype(np.float64) / draw.temperature
    order = np.lexsort((np.arange(len(scaled)), -scaled))
    weights = np.exp(scaled[order] - scaled[order[0]])
    if draw.top_k:
        weights[draw.top_k :] = 0.0
    weights /= weights.sum()
    if draw.top_p < 1.0:
        before = np.cumsum(weights) - weights
        weights[before >= draw.top_p] = 0.0
    weights[weights < draw.min_p * weights[0]] = 0.0
    out = np.zeros(len(scaled))
    out[order] = weights / weights.sum()
    return out


def chi_square_p(counts_V: Array, expected_V: Array) -> float:
    """Probability of a fit this bad or worse; rare tokens are counted together.

    The tail is Wilson and Hilferty's cube-root approximation (1931), exact enough to tell 1e-3.
    """
    common = expected_V >= 5.0
    counts = np.append(counts_V[common], counts_V[~common].sum())
    expected = np.append(expected_V[common], expected_V[~common].sum())
    if expected[-1] < 5.0:
        counts, expected = counts[:-1], expected[:-1]
    degrees = len(counts) - 1
    if degrees < 1:
        return 1.0  # one token alone: there is no chance to judge
    statistic = float(((counts - expected) ** 2 / expected).sum())
    z = (np.cbrt(statistic / degrees) - (1 - 2 / (9 * degrees))) / np.sqrt(2 / (9 * degrees))
    return 0.5 * math.erfc(float(z) / math.sqrt(2.0))
