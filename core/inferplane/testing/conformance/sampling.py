"""Level 5, sampling: a device obeys every parameter it claims, and chance is what was asked for.

R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, get_args

import numpy as np
import pytest

from inferplane.interfaces import Array, SamplerCaps, SamplingParam
from inferplane.sampling.host_sampler import draw as oracle
from inferplane.sampling.host_sampler import log_softmax
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.deck import Deck, chi_square_p, probabilities
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.draws import SAMPLE_DRAWS, agreement, within
from inferplane.testing.conformance.driver import Work
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.conformance.subject import Subject

__all__ = ["SamplingConformance"]

NUM_LANES = 128
"""Rows of one step where only chance is looked at."""
NUM_ROWS = 24
"""Rows where each is compared with the oracle."""


class SamplingConformance(Conformance):
    """L5, through the executor: what is drawn, by whom, and from which distribution."""

    level: ClassVar[int] = 5

    @pytest.fixture
    def started(self, subject: Subject, inferplane_kit: KitState) -> Started:
        """A tiny model with many lanes."""
        return inferplane_kit.started(subject, max_num_seqs=NUM_LANES)

    @pytest.fixture
    def caps(self, started: Started) -> SamplerCaps:
        """What the device says of its sampler."""
        return started.plan.caps.sampler

    @pytest.fixture
    def deck(self, started: Started) -> Deck:
        """Different sequences, in one step."""
        rng = np.random.default_rng(2)
        vocab = started.plan.model.vocab_size
        count = min(NUM_ROWS, started.new_driver().max_num_seqs)
        return Deck(started, [rng.integers(3, vocab, 6 + n % 9).tolist() for n in range(count)])

    def test_greedy_is_the_largest_logit(self, deck: Deck) -> None:
        """In every row of a full batch."""
        got, want = deck.tokens(lambda place: Draw()), deck.logits_RV.argmax(axis=1)
        for row, logits_V, token in zip(range(len(got)), deck.logits_RV, got, strict=True):
            assert logits_V[token] >= logits_V.max() - 1e-3, (row, token, int(want[row]))

    def test_ties_go_to_the_lowest_id(self, deck: Deck, caps: SamplerCaps) -> None:
        """Two tokens lifted so high that float32 cannot tell them apart."""
        _needs(caps, "bias")
        tied = Draw(bias={200: 1e9, 117: 1e9, 301: 1e9})
        assert set(deck.tokens(lambda place: tied)) == {117}

    @pytest.mark.parametrize("kind", list(SAMPLE_DRAWS))
    def test_every_claimed_parameter_is_obeyed(
        self, deck: Deck, caps: SamplerCaps, kind: str, started: Started
    ) -> None:
        """Token for token what the oracle draws, where seeds are claimed; else within the cuts."""
        how = replace(SAMPLE_DRAWS[kind], vocab_size=started.plan.model.vocab_size)
        how = within(replace(how, num_logprobs=min(how.num_logprobs, caps.max_logprobs)), caps)
        _needs(caps, *(how.params() - {"seed"}))
        faults = []
        for trial in range(4):
            draws = [replace(how, seed=97 * trial + place) for place in range(len(deck.lives))]
            for place, row in enumerate(deck.step(draws)):
                logits_1V = deck.logits_RV[place : place + 1]
                batch = deck.sampling(place, draws[place])
                token = row.token_ids[0]
                if "seed" in caps.params or not how.temperature:
                    good = agreement(logits_1V, batch, token)
                else:
                    good = _possible(logits_1V, how, token)
                if not good:
                    faults.append((place, token, int(oracle(logits_1V, batch).token_ids[0])))
        assert faults == [], "(row, drawn, expected)"

    def test_a_seed_repeats_itself_in_any_batch(self, deck: Deck, caps: SamplerCaps) -> None:
        """Alone, among others, in another order: a row's chance is its own."""
        _needs(caps, "temperature", "seed")
        warm = within(Draw(temperature=1.0), caps)
        draws = [replace(warm, seed=7000 + place) for place in range(len(deck.lives))]
        first = [row.token_ids for row in deck.step(draws)]
        order = list(reversed(range(len(deck.lives))))
        assert [row.token_ids for row in deck.step(draws, order)] == first
        for place in (0, len(deck.lives) - 1):
            alone = [draw if p == place else None for p, draw in enumerate(draws)]
            assert deck.step(alone)[place].token_ids == first[place]

    def test_different_seeds_draw_differently(self, deck: Deck, caps: SamplerCaps) -> None:
        """A constant would repeat itself too."""
        _needs(caps, "temperature")
        trials, hot = set(), within(Draw(temperature=2.0), caps)
        for trial in range(4):
            seeds = range(1000 * trial, 1000 * trial + len(deck.lives))
            rows = deck.step([replace(hot, seed=seed) for seed in seeds])
            trials.add(tuple(row.token_ids[0] for row in rows))
        assert len(trials) == 4

    @pytest.mark.parametrize("kind", ["temperature", "all cuts"])
    def test_chance_follows_the_distribution(
        self, started: Started, subject: Subject, caps: SamplerCaps, kind: str
    ) -> None:
        """Chi-square over many draws from one place; nothing that was cut is ever drawn."""
        how = within(SAMPLE_DRAWS[kind], caps)
        _needs(caps, *(how.params() - {"seed"}))
        count = min(started.new_driver().max_num_seqs, started.plan.config.max_batched_tokens)
        deck = Deck(started, [[11, 42, 7, 99, 5]] * count)
        steps = max(1, subject.samples(100_000) // count)
        counts_V = np.zeros(deck.logits_RV.shape[1])
        for step in range(steps):
            seeds = range(step * count, (step + 1) * count)
            for row in deck.step([replace(how, seed=seed) for seed in seeds]):
                counts_V[row.token_ids[0]] += 1
        chance_V = probabilities(deck.logits_RV[0], how)
        assert counts_V[chance_V == 0].sum() == 0, "a token was drawn that had been cut"
        assert chi_square_p(counts_V, chance_V * counts_V.sum()) > 1e-3

    def test_a_mask_is_never_broken(self, deck: Deck, caps: SamplerCaps, started: Started) -> None:
        """Not even when everything likely is forbidden."""
        _needs(caps, "bitmask", "temperature")
        least = deck.logits_RV.argsort(axis=1)[:, :3]
        vocab = started.plan.model.vocab_size
        for trial in range(30):

            def how(place: int, seed: int = trial) -> Draw:
                allowed = frozenset(int(t) for t in least[place])
                return Draw(temperature=1.5, seed=seed, allowed=allowed, vocab_size=vocab)

            for place, token in enumerate(deck.tokens(how)):
                assert token in least[place]

    def test_forbidden_tokens_stay_forbidden(self, deck: Deck, caps: SamplerCaps) -> None:
        """A bias of minus infinity, on the likeliest tokens."""
        _needs(caps, "bias")
        best = deck.logits_RV.argsort(axis=1)[:, -5:]
        for temperature in (0.0, 1.0) if "temperature" in caps.params else (0.0,):
            draws = [
                Draw(temperature, seed=place, bias={int(t): -np.inf for t in best[place]})
                for place in range(len(deck.lives))
            ]
            for place, row in enumerate(deck.step(draws)):
                assert row.token_ids[0] not in best[place]

    def test_a_row_that_is_not_finite_fails_alone(self, deck: Deck, caps: SamplerCaps) -> None:
        """It is told in `failed`; its neighbours draw what they would have drawn."""
        _needs(caps, "bias")
        healthy = deck.step([Draw()] * len(deck.lives))
        draws = [Draw(bias={5: np.nan}) if place == 1 else Draw() for place in range(len(healthy))]
        rows = deck.step(draws)
        assert rows[1].failed
        for place, (row, before) in enumerate(zip(rows, healthy, strict=True)):
            if place != 1:
                assert row.token_ids == before.token_ids and not row.failed, place

    def test_log_probabilities_are_of_the_raw_logits(self, deck: Deck, caps: SamplerCaps) -> None:
        """Column 0 is the token drawn, then the best ones in order."""
        _needs(caps, "logprobs")
        count = min(4, caps.max_logprobs)
        how = Draw(temperature=1.0 if "temperature" in caps.params else 0.0, num_logprobs=count)
        truth_RV = log_softmax(deck.logits_RV)
        for place, row in enumerate(deck.step([how] * len(deck.lives))):
            assert row.logprobs is not None, "log-probabilities were asked for"
            values, ids = row.logprobs
            assert ids[0] == row.token_ids[0]
            np.testing.assert_allclose(values, truth_RV[place, ids], atol=2e-3)
            best = np.sort(truth_RV[place])[::-1][:count]
            np.testing.assert_allclose(values[1 : count + 1], best, atol=2e-3)

    def test_a_prompt_can_be_scored(self, started: Started, caps: SamplerCaps) -> None:
        """The log-probability of each prompt token after those before it."""
        _needs(caps, "prompt_logprobs")
        driver = started.new_driver()
        prompt = [int(t) for t in np.random.default_rng(8).integers(3, driver.vocab_size, 12)]
        live = driver.begin(prompt)
        scored = tuple((place, prompt[place + 1]) for place in range(len(prompt) - 1))
        row = driver.step([Work(live, len(prompt), Draw(), scored=scored)])[0]
        driver.end(live)
        assert len(row.scores) == len(scored)
        assert all(score <= 0 for score in row.scores)
        for place in range(1, len(prompt), 5):
            deck = Deck(started, [prompt[:place]])
            want = log_softmax(deck.logits_RV)[0, prompt[place]]
            assert abs(row.scores[place - 1] - want) < 5e-3, place

    def test_logits_handed_over_disturb_nobody(self, deck: Deck, caps: SamplerCaps) -> None:
        """Rows that the host draws and rows that the device draws share a batch."""
        if not caps.host_rows:
            missing = set(get_args(SamplingParam)) - set(caps.params)
            pytest.skip(f"no logits are handed over; refused: {sorted(missing)}")
        plain = [row.token_ids for row in deck.step([Draw()] * len(deck.lives))]
        asked = range(0, len(deck.lives), 3)
        for place, row in enumerate(deck.host_rows(asked, Draw())):
            if place in asked:
                assert row.logits is not None
                np.testing.assert_allclose(row.logits, deck.logits_RV[place], atol=1e-3)
            else:
                assert row.token_ids == plain[place] and row.logits is None


def _needs(caps: SamplerCaps, *params: str) -> None:
    missing = set(params) - set(caps.params)
    if missing:
        pytest.skip(f"the device leaves {sorted(missing)} to the host or refuses them")


def _possible(logits_1V: Array, how: Draw, token: int) -> bool:
    """Whether a token has any chance; penalties, bias and masks are left to the other tests."""
    if how.params() & {"penalties", "bias", "bitmask"}:
        return True
    return bool(probabilities(logits_1V[0], how)[token] > 0)
