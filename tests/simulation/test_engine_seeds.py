"""A sample of seeds of the whole engine; `inferplane-sim --engine` runs more of them."""

from __future__ import annotations

from collections import Counter

import pytest

from inferplane.engine.prompt_scores import PromptScores
from inferplane.engine.recovery import Recovery
from inferplane.engine.row_extras import RowExtras
from inferplane.scheduling.block_pool import BlockPool
from inferplane.testing.simulation.engine_run import EngineReport, simulate_engine
from inferplane.testing.simulation.violation import Violation

TURNS = 60


def run(seeds: range, grammars: bool = True) -> Counter[str]:
    ended: Counter[str] = Counter()
    for seed in seeds:
        report: EngineReport = simulate_engine(seed, TURNS, grammars)
        ended.update(report.ended)
        ended["restarts"] += report.restarts
    return ended


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_users_get_what_each_would_get_alone_whatever_happens_to_the_others(first):
    ended = run(range(first, first + 20))
    assert ended["stop"] + ended["length"] > 100
    assert ended["abort"] > 0 and ended["restarts"] > 0


def test_the_seeds_of_the_suite_reach_every_kind_of_end():
    ended = run(range(60, 75))
    errors = {"engine_poisoned_request", "model_numerical_error", "deadline_exceeded"}
    assert errors <= {name for name, count in ended.items() if count}


class TestBugsThatWereFound:
    """Each put back makes a seed fail."""

    def test_scores_of_a_prompt_nobody_waits_for_any_more(self, monkeypatch):
        collect = PromptScores.collect

        def keep_all(self, plan, batch, result):
            states = [(item.sequence, item.sequence.state) for item in plan.scheduled]
            for sequence, _ in states:
                sequence.state = type(sequence.state).RUNNING
            collect(self, plan, batch, result)
            for sequence, state in states:
                sequence.state = state

        monkeypatch.setattr(PromptScores, "collect", keep_all)
        with pytest.raises(Violation, match="INV-10"):
            run(range(1, 2), grammars=False)

    def test_blocks_that_a_lone_run_left_unclean(self, monkeypatch):
        monkeypatch.setattr(BlockPool, "distrust", lambda self, blocks: None)
        with pytest.raises(AssertionError, match="without zeroing"):
            run(range(328, 329), grammars=False)

    def test_a_crash_on_a_token_that_only_the_device_knew(self, monkeypatch):
        made = Recovery.__init__

        def shallow(self, engine, restart, make_replay, budget):
            def replay():
                alone = make_replay()
                alone._most_drawn = 1
                return alone

            made(self, engine, restart, replay, budget)

        monkeypatch.setattr(Recovery, "__init__", shallow)
        with pytest.raises(Violation, match="INV-19"):
            run(range(20, 21), grammars=False)

    def test_a_row_without_its_mask(self, monkeypatch):
        monkeypatch.setattr(RowExtras, "mask_after", lambda self, token_ids: None)
        with pytest.raises(Violation, match="INV-24"):
            run(range(0, 10))
