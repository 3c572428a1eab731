"""The kit is tested: correct plugins pass it, and each broken one fails where it must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zoo import MUTANTS, Mutant, write_mutant, write_zoo_plugin


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"L{mutant.level}-{mutant.name}")
def test_a_mutant_fails_at_its_level_and_nowhere_below(
    mutant: Mutant, tmp_path: Path, run_kit: Callable[..., Any]
) -> None:
    folder, device = write_mutant(mutant, tmp_path)
    verdict = run_kit(folder, device, mutant.level)
    assert set(verdict.failed) == {mutant.level}, verdict.failed
    assert all(verdict.passed.get(level) for level in range(mutant.level))


@pytest.mark.parametrize("variant", ["narrow", "wide"])
def test_a_correct_plugin_passes_everything(
    variant: Any, tmp_path: Path, run_kit: Callable[..., Any]
) -> None:
    folder = write_zoo_plugin(f"correct_{variant}", variant, tmp_path)
    verdict = run_kit(folder, f"correct_{variant}", 7)
    assert verdict.failed == {} and verdict.badge == "L7"


def test_every_level_has_a_mutant() -> None:
    assert {mutant.level for mutant in MUTANTS} == set(range(8))
    assert len(MUTANTS) >= 12
