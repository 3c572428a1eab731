"""Laws of the kit's own parts: tolerances, chance, expectations, verdicts, what a driver builds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inferplane.errors import ConfigError
from inferplane.testing.conformance.deck import chi_square_p, probabilities
from inferplane.testing.conformance.drawing import Draw, DrawingRow, sampling_batch
from inferplane.testing.conformance.report import Outcome, Report
from inferplane.testing.conformance.subject import Expectations, Subject, find_subject
from inferplane.testing.conformance.tolerances import Tolerance, tolerance
from inferplane.testing.fresh_interpreter import imports_of


@pytest.fixture
def rocm() -> Subject:
    return find_subject("rocm", ["rocm"])


def verdict(subject: Subject, *outcomes: tuple[int, str]) -> Report:
    return Report(subject, [Outcome("test", level, outcome) for level, outcome in outcomes])


@pytest.mark.parametrize(
    ("got", "truth", "ok"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.05, 2.0], [1.0, 2.0], True),
        ([1.3, 2.0], [1.0, 2.0], False),
        ([np.nan, 2.0], [1.0, 2.0], False),
        ([np.nan], [np.nan], True),
        ([np.inf], [np.inf], True),
        ([np.inf], [1.0], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_a_tolerance_lets_through_what_is_near_and_nothing_else(
    got: list[float], truth: list[float], ok: bool
) -> None:
    excess = Tolerance(0.05, 0.05).excess(np.array(got), np.array(truth))
    assert (excess == "") is ok, excess


def test_a_kernel_may_be_twice_as_wrong_as_the_reference() -> None:
    truth, reference = np.array([1.0, 1.0]), np.array([1.0, 1.1])
    assert Tolerance(0.0, 0.0).excess(np.array([1.19, 1.0]), truth, reference) == ""
    assert Tolerance(0.0, 0.0).excess(np.array([1.21, 1.0]), truth, reference) != ""


def test_a_long_sum_may_err_more_in_float32_only() -> None:
    assert tolerance("linear", "float32", inner=100).absolute == pytest.approx(1e-4)
    assert tolerance("linear", "bfloat16", inner=100) == tolerance("linear", "bfloat16")


def test_fair_dice_pass_and_loaded_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    expected = np.full(20, 500.0)
    fair = np.bincount(rng.integers(0, 20, 10_000), minlength=20)
    loaded = fair + np.where(np.arange(20) < 3, 80, -80 * 3 / 17)
    assert chi_square_p(fair, expected) > 1e-3 > chi_square_p(loaded, expected)


def test_rare_tokens_are_judged_together() -> None:
    expected = np.array([500.0, *[0.1] * 100])
    assert chi_square_p(np.array([500.0, *[0.0] * 90, *[1.0] * 10]), expected) > 1e-3
    assert chi_square_p(np.array([400.0, *[1.0] * 100]), expected) < 1e-3


@pytest.mark.parametrize(
    ("draw", "possible"),
    [
        (Draw(1.0), {0, 1, 2, 3}),
        (Draw(1.0, top_k=2), {1, 3}),
        (Draw(1.0, top_p=0.5), {3}),
        (Draw(1.0, top_p=0.7), {1, 3}),
        (Draw(1.0, min_p=0.5), {3}),
        (Draw(1.0, min_p=0.3), {1, 3}),
    ],
)
def test_cuts_leave_the_tokens_one_would_expect(draw: Draw, possible: set[int]) -> None:
    logits = np.log(np.array([0.05, 0.25, 0.1, 0.6]))
    chance = probabilities(logits, draw)
    assert set(np.flatnonzero(chance).tolist()) == possible
    assert chance.sum() == pytest.approx(1.0)


def test_the_arrays_of_a_draw_count_tokens_as_the_interface_says() -> None:
    how = Draw(penalties=(0.1, 0.2, 1.3), allowed=frozenset({1, 33}), vocab_size=40)
    batch = sampling_batch([DrawingRow(Draw(), [5], 1, 1), DrawingRow(how, [7, 8, 8, 9], 2, 4)])
    assert batch.seen is not None and batch.bitmask is not None
    assert batch.seen.start.tolist() == [0, 0, 3]
    assert dict(zip(batch.seen.ids.tolist(), batch.seen.values.tolist(), strict=True)) == {
        7: 0.0,
        8: 1.0,
        9: 1.0,
    }
    assert batch.position.tolist() == [1, 4]
    assert batch.bitmask[1].tolist() == [2, 2] and batch.bitmask[0, 0] == 0xFFFFFFFF


def test_a_level_counts_when_all_below_it_pass(rocm: Subject) -> None:
    assert verdict(rocm, (0, "passed"), (1, "passed"), (3, "passed")).badge() == "L1"
    assert verdict(rocm, (0, "passed"), (1, "failed"), (1, "passed")).badge() == "L0"
    assert verdict(rocm, (0, "failed")).badge() == "none"
    assert verdict(rocm, (0, "passed"), (1, "skipped")).badge() == "L0"
    assert verdict(rocm, (0, "passed"), (1, "passed"), (1, "expected")).badge() == "L1"


def test_a_report_says_what_was_checked_by_which_core(rocm: Subject) -> None:
    content = json.loads(verdict(rocm, (0, "passed")).to_json())
    assert content["device"] == "rocm" and content["badge"] == "L0"
    assert content["plugin"]["interface"] == [1, 0] and content["kind"] == "wide"
    assert content["probe"]["ok"] is False and content["levels"]["L0"]["passed"] == 1


def test_an_expected_failure_needs_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "conformance.toml"
    assert Expectations.read(path) == Expectations()
    path.write_text('[[expected_failures]]\ntest = "X::test_y"\nreason = "the SDK rounds"\n')
    assert Expectations.read(path).failures[0].reason == "the SDK rounds"
    path.write_text('[[expected_failures]]\ntest = "X::test_y"\n')
    with pytest.raises(ConfigError, match="reason"):
        Expectations.read(path)


@pytest.mark.parametrize("factor", [0.5, 4.1])
def test_a_tolerance_is_widened_by_four_at_most(tmp_path: Path, factor: float) -> None:
    path = tmp_path / "conformance.toml"
    path.write_text(f'[tolerances]\nattention = {{ factor = {factor}, reason = "bf16 exp" }}\n')
    with pytest.raises(ConfigError, match=r"1\.\.4"):
        Expectations.read(path)


def test_a_device_that_is_not_there_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no plugin offers device 'nope' \(known: rocm\)"):
        find_subject("nope", ["rocm"])


def test_a_fresh_interpreter_sees_what_an_import_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rude.py").write_text(
        "import os, signal, sys\n"
        "os.environ['RUDE'] = '1'\nos.chdir('/')\nprint('hello')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = imports_of(["rude", "broken", "json"])
    assert seen["rude"].changes == ("environment", "signal handlers", "working directory")
    assert seen["rude"].printed == "hello\n"
    assert seen["broken"].error == "SystemExit: 3"
    assert seen["json"].changes == ()
