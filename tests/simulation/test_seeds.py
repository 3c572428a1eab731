"""A sample of seeds; `scripts/simulate` runs more of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import inferplane.testing.simulation as simulation
from inferplane.testing.simulation import Knobs, draw_knobs, replay, simulate
from inferplane.testing.simulation.actions import Add, Answer, Step
from inferplane.testing.simulation.campaign import Tally, run_campaign, run_slice
from inferplane.testing.simulation.knobs import FaultRates
from inferplane.testing.simulation.ledger import read_ledger, record, scheduler_digest
from inferplane.testing.simulation.minimiser import minimise
from inferplane.testing.simulation.runner import Report
from inferplane.testing.simulation.violation import INVARIANTS, Stuck, Violation

SEEDS = range(0, 1000)
STEPS = 60
PART = 50


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, PART))
def test_invariants_hold_under_faults_and_everybody_finishes_after_them(first):
    steps = 0
    for seed in range(first, first + PART):
        report = simulate(seed, STEPS)
        steps += report.steps
        assert report.failure is None, f"seed {seed}: {report.failure}"
    assert steps > PART * STEPS


@pytest.mark.parametrize(
    ("seed", "steps"),
    [
        (65, 1000),  # a row in flight fails after its sequence gave way, on blocks it had adopted
        (72, 1000),  # a row of an earlier stay fails, and the sequence stands on what it wrote
        (127, 800),  # a hit inside a block that is being filled again with what it had before
        (340, 1300),  # the same, of a request that was aborted
        (
            100164,
            1000,
        ),  # a block that left a window was proven by who had held it
        (438, 1750),  # a block of a failed row that a row before it in the step had proven
        (2842, 1000),  # a row that fails by what it reads writes what others read in the same step
    ],
)
def test_what_a_long_run_once_found_stays_repaired(seed, steps):
    # a changed driver draws another run from a seed: the mutants keep the bugs themselves
    report = simulate(seed, steps)
    assert report.failure is None, report.failure


def test_a_run_can_be_done_again_byte_for_byte():
    first, second = simulate(11, 80), simulate(11, 80)
    assert first.digest == second.digest
    assert first.actions == second.actions
    assert replay(draw_knobs(11), first.actions).digest == first.digest


_SCRIPT = """
import json
from inferplane.testing.simulation import simulate
print(json.dumps([simulate(seed, 60).digest for seed in (3, 8, 17)]))
"""


def test_plans_do_not_depend_on_the_hash_seed():
    runs = []
    for hash_seed in ("0", "1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(done.stdout))
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_faults_happen_and_are_survived():
    reports = [simulate(seed, 100) for seed in range(100, 130)]
    ends = {reason for report in reports for reason in report.finished}
    assert {"stop", "length", "abort", "internal_error", "model_numerical_error"} <= ends
    assert sum(report.preemptions for report in reports) > 0
    assert sum(report.rollbacks for report in reports) > 0


def test_without_faults_no_request_ends_but_by_its_own_will():
    for seed in range(200, 215):
        knobs = replace(draw_knobs(seed), faults=FaultRates(), deadlines=False)
        knobs = replace(knobs, settings=replace(knobs.settings, queue_timeout_s=0.0))
        report = simulate(seed, 60, knobs)
        assert report.failure is None
        assert set(report.finished) <= {"stop", "length"}


def test_the_minimiser_keeps_what_matters():
    knobs = Knobs()

    def broken(*args, **kwargs):
        from inferplane.scheduling.scheduler import Scheduler

        class Forgetful(Scheduler):
            def update(self, plan, result):
                events = super().update(plan, result)
                return [] if any(e.finish for e in events) else events

        return Forgetful(*args, **kwargs)

    report = simulate(5, 50, knobs, broken)
    assert isinstance(report.failure, Violation)
    shorter = minimise(knobs, report.actions, broken)
    assert len(shorter) <= 20 < len(report.actions)
    again = replay(knobs, shorter, broken).failure
    assert isinstance(again, Violation)
    assert again.invariant == report.failure.invariant


def test_a_run_that_does_not_fail_cannot_be_shrunk():
    with pytest.raises(ValueError, match="does not fail"):
        minimise(Knobs(), [Step(), Answer()])


def test_actions_that_do_not_apply_do_nothing():
    request = Add("a", document=0, shared=5, own=3, seed=1, max_tokens=3)
    steps = [Step(), Answer()] * 4
    report = replay(Knobs(), [Answer(), request, *steps, Answer(), Step()])
    assert report.failure is None
    assert sum(report.finished.values()) == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Violation(2, "x"), 20), (Stuck(19, "x"), 21), (KeyError("x"), 22)],
)
def test_the_exit_code_tells_the_kind_of_failure(monkeypatch, capsys, failure, code):
    from inferplane.testing.simulation import __main__ as command

    monkeypatch.setattr(sys, "argv", ["simulation", "--seed", "4"])
    monkeypatch.setattr(command, "simulate", lambda seed, steps: Report(seed, failure=failure))
    assert command.main() == code
    assert "seed 4" in capsys.readouterr().out


def test_the_command_prints_the_digest_of_a_seed(monkeypatch, capsys):
    from inferplane.testing.simulation import __main__ as command

    monkeypatch.setattr(sys, "argv", ["simulation", "--seed", "4", "--steps", "30"])
    assert command.main() == 0
    assert simulate(4, 30).digest in capsys.readouterr().out


def test_every_invariant_is_checked_somewhere():
    (folder,) = simulation.__path__
    code = "".join(path.read_text() for path in sorted(Path(folder).glob("*.py")))
    raised = re.findall(r"(?:Violation|Stuck|_require)\(\s*(\d+)(?: if [^,]+ else (\d+))?,", code)
    assert {int(number) for pair in raised for number in pair if number} == set(INVARIANTS)
    assert set(INVARIANTS) == set(range(1, 29))


def test_many_processes_do_what_one_does():
    alone = run_slice(range(30, 54), 20)
    tally = run_campaign(range(30, 54), 20, 2)
    assert (tally.seeds, tally.steps, tally.failures) == (24, alone.steps, [])
    assert run_campaign(range(30, 54), 20, 1, until=0.0).seeds == 0


def test_the_ledger_adds_up_what_these_sources_survived(tmp_path):
    file = tmp_path / "ledger.json"
    record(file, Tally(0, seeds=5, steps=700, seconds=1.0), 100, 2)
    record(file, Tally(5, seeds=5, steps=300, seconds=1.0, failures=[7]), 100, 2)
    record(file, Tally(10, seeds=1, steps=50, seconds=0.5), 50, 1)
    ledger = read_ledger(file)
    assert [run.first_seed for run in ledger.runs] == [0, 5, 10]
    assert ledger.steps_of(scheduler_digest()) == 750
    assert ledger.steps_of("other sources") == 0
