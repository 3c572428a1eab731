"""Level 3, KV through the executor: blocks mean what the core says, seen from tokens alone.

Checks both kinds of plugin, since it asks for nothing but steps.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.driver import Driver, Live, Work
from inferplane.testing.conformance.state import KitState
from inferplane.testing.conformance.subject import Subject

__all__ = ["ExecutorKVConformance"]

LENGTH = 8
"""Tokens generated where two runs are compared."""


class ExecutorKVConformance(Conformance):
    """L3 for the executor as a whole."""

    level: ClassVar[int] = 3

    @pytest.fixture
    def driver(self, subject: Subject, inferplane_kit: KitState) -> Driver:
        """A tiny model on the device."""
        return inferplane_kit.started(subject).new_driver()

    @pytest.fixture
    def prompt(self, driver: Driver) -> list[int]:
        """Two blocks and a bit, or what fits."""
        return _tokens(driver, 1, min(2 * driver.kv.block_size + 5, 90))

    def test_the_plan_is_one_the_core_can_use(self, driver: Driver, subject: Subject) -> None:
        """Scratch block 0 and room for at least one request; sizes as the platform states."""
        kv = driver.kv
        assert kv.num_blocks >= 2 and kv.block_size >= 1 and kv.groups
        assert kv.block_size % driver.caps.block_multiple == 0 or subject.narrow

    def test_which_blocks_a_sequence_has_does_not_matter(
        self, driver: Driver, prompt: list[int]
    ) -> None:
        """Ascending or shuffled, the same tokens."""
        first = driver.generate(prompt, LENGTH)
        driver.free_blocks = np.random.default_rng(5).permutation(driver.free_blocks).tolist()
        assert driver.generate(prompt, LENGTH) == first

    def test_what_an_earlier_sequence_left_has_no_effect(
        self, driver: Driver, prompt: list[int]
    ) -> None:
        """Blocks come back unwashed; a new owner must not see what is in them."""
        first = driver.generate(prompt, LENGTH)
        for seed in (2, 3):
            driver.generate(_tokens(driver, seed, len(prompt) + 7), 3)
        driver.free_blocks.sort()
        assert driver.generate(prompt, LENGTH) == first

    def test_a_copied_block_is_the_same_and_from_then_on_its_own(
        self, driver: Driver, prompt: list[int]
    ) -> None:
        """A fork shares full blocks and copies the last: both sides go on undisturbed."""
        if not driver.caps.limits.chunked_prefill:
            pytest.skip("the device does not claim chunked prefill, so prefixes are not shared")
        alone = driver.generate(prompt, LENGTH)
        other = _tokens(driver, 9, 4)
        alone_other = driver.generate([*prompt, *other], LENGTH)
        live = driver.begin(prompt)
        row = driver.prefill(live, Draw())
        twin, pairs = driver.fork(live, len(prompt))
        twin.tokens += other
        twin.num_prompt = len(twin.tokens)
        live.tokens.append(row.token_ids[0])
        second = driver.step([Work(live, 1, Draw())], copied=pairs)[0]
        twin_row = driver.prefill(twin, Draw())
        twin_out = _continue(driver, twin, twin_row.token_ids)
        assert _continue(driver, live, [row.token_ids[0], second.token_ids[0]]) == alone
        assert twin_out == alone_other
        driver.end(live)
        driver.end(twin, recycle=False)

    def test_zeroing_a_free_block_disturbs_nobody(self, driver: Driver, prompt: list[int]) -> None:
        """Zeroing comes before the step and touches the named blocks alone."""
        first = driver.generate(prompt, LENGTH)
        live = driver.begin(prompt)
        row = driver.prefill(live, Draw())
        live.tokens.append(row.token_ids[0])
        second = driver.step([Work(live, 1, Draw())], zeroed=driver.free_blocks[-3:])[0]
        assert _continue(driver, live, [row.token_ids[0], second.token_ids[0]]) == first
        driver.end(live)

    def test_many_lives_of_a_lane(self, driver: Driver) -> None:
        """Lanes and blocks are used again and again, more often than there are any."""
        prompts = [_tokens(driver, seed, 5 + seed % 7) for seed in range(4)]
        first = [driver.generate(prompt, 3) for prompt in prompts]
        for _ in range(driver.max_num_seqs):
            assert [driver.generate(prompt, 3) for prompt in prompts] == first


def _tokens(driver: Driver, seed: int, count: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(t) for t in rng.integers(3, driver.vocab_size, count)]


def _continue(driver: Driver, live: Live, out: list[int]) -> list[int]:
    """`out` and what follows greedily, LENGTH in all; its last token is not computed yet."""
    while len(out) < LENGTH:
        live.tokens.append(out[-1])
        out = [*out, driver.step([Work(live, 1, Draw())])[0].token_ids[0]]
    return out
