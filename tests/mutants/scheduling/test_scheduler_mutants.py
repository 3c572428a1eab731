"""The simulation must notice each of these bugs."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

import inferplane

MUTANTS = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())["mutant"]
STEPS = 150
"""Steps with faults for a seed, unless the mutant says otherwise."""
MORE_SEEDS = 60
"""Seeds tried when none of the known ones kills."""

_ROOM = Path(inferplane.__file__).parent / "scheduling"
_REBUILT = ("inferplane.scheduling", "inferplane.testing.simulation")


class _Patched(SourceFileLoader):
    """Loads one module with a bug in it."""

    def __init__(self, name: str, path: str, old: str, new: str) -> None:
        super().__init__(name, path)
        self._change = (old, new)

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text()
        old, new = self._change
        assert source.count(old) == 1, f"{self.path} has {source.count(old)} times: {old}"
        return compile(source.replace(old, new), self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, mutant: dict[str, str]) -> None:
        self.mutant = mutant
        self.name = f"inferplane.scheduling.{mutant['file'].removesuffix('.py')}"

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        file = str(_ROOM / self.mutant["file"])
        loader = _Patched(fullname, file, self.mutant["old"], self.mutant["new"])
        return spec_from_file_location(fullname, file, loader=loader)


@contextmanager
def mutated(mutant: dict[str, str]) -> Iterator[ModuleType]:
    """The simulation on top of a scheduler with the bug; everything is as before afterwards."""
    before = dict(sys.modules)
    finder = _Finder(mutant)
    for name in list(sys.modules):
        if name.startswith(_REBUILT):
            del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("inferplane.testing.simulation")
    finally:
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            if name.startswith(_REBUILT):
                del sys.modules[name]
        sys.modules.update(before)


def killer(mutant: dict[str, Any], seeds: Iterable[int]) -> tuple[int, BaseException] | None:
    """The first seed that notices, and how."""
    with mutated(mutant) as simulation:
        for seed in seeds:
            failure = simulation.simulate(seed, mutant.get("steps", STEPS)).failure
            if failure is not None:
                return seed, failure
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_the_simulation_notices(mutant: dict[str, Any]) -> None:
    known = mutant.get("seeds", [])
    found = killer(mutant, [*known, *range(MORE_SEEDS)])
    assert found is not None, f"nobody noticed: {mutant['name']}"


def test_without_a_bug_those_seeds_pass() -> None:
    from inferplane.testing.simulation import simulate

    seeds = sorted({seed for mutant in MUTANTS for seed in mutant.get("seeds", [])})
    failures = {seed: simulate(seed, STEPS).failure for seed in seeds}
    assert not any(failures.values()), failures


def test_there_are_at_least_thirty_distinct_bugs() -> None:
    assert len({mutant["name"] for mutant in MUTANTS}) == len(MUTANTS) >= 30
