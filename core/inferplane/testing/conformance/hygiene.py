"""Level 0, hygiene: light modules leave the process alone, and every door leads somewhere."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest

from inferplane.interfaces import INTERFACE_VERSION, Probe
from inferplane.plugins import find_plugins
from inferplane.registry import Entry
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.state import KitState
from inferplane.testing.conformance.subject import Subject
from inferplane.testing.fresh_interpreter import Imported

__all__ = ["HygieneConformance"]

ALLOWED = frozenset({"inferplane", "numpy", "pluggy", "msgspec"})
"""What a light module may bring with it, besides the standard library and its own package."""


PROBE = "probe"


class HygieneConformance(Conformance):
    """L0: needs no device. Everything is looked at in an interpreter that did nothing else."""

    level: ClassVar[int] = 0
    needs_device = False

    @pytest.fixture
    def light_modules(self, subject: Subject, inferplane_kit: KitState) -> dict[str, Imported]:
        """What importing the entry module and the platform's did."""
        seen = inferplane_kit.light_modules(subject)
        return {name: did for name, did in seen.items() if name != PROBE}

    @pytest.fixture
    def probing(self, subject: Subject, inferplane_kit: KitState) -> Imported:
        """What probing did after that."""
        return inferplane_kit.light_modules(subject)[PROBE]

    def test_light_modules_import_only_the_interface(
        self, subject: Subject, light_modules: dict[str, Imported]
    ) -> None:
        """No torch, no SDK: an import here would cost everybody, or break everybody."""
        own = {subject.owner.source.module.split(".")[0], subject.entry.target.split(".")[0]}
        others = [*find_plugins(None), *(p.source for p in subject.plugins.loaded)]
        own |= {source.module.split(".")[0] for source in others}  # it may build on another plugin
        for module, seen in light_modules.items():
            assert seen.error == "", module
            top = {name.split(".")[0] for name in seen.new_modules}
            foreign = {name for name in top - own - ALLOWED if not _is_standard(name)}
            assert foreign == set(), f"{module} loads {sorted(foreign)}"

    def test_light_modules_change_nothing_in_the_process(
        self, light_modules: dict[str, Imported]
    ) -> None:
        """Environment, working directory, signal handlers, import path, threads, open files."""
        for module, seen in light_modules.items():
            assert seen.changes == (), f"importing {module} changes {seen.changes}"

    def test_light_modules_print_nothing(self, light_modules: dict[str, Imported]) -> None:
        """What is printed here lands in the middle of somebody's JSON."""
        for module, seen in light_modules.items():
            assert seen.printed == "", module

    def test_the_plugin_loads_with_the_version_it_states(self, subject: Subject) -> None:
        """Same major, minor not above the core's; no misspelt hook; every register line taken."""
        assert subject.owner.error == "", subject.owner.trace
        assert subject.owner.interface is not None
        assert subject.owner.interface[0] == INTERFACE_VERSION[0]
        assert subject.owner.interface <= INTERFACE_VERSION

    def test_every_target_exists(self, subject: Subject) -> None:
        """By syntax tree: a missing SDK must not hide a typing error."""
        missing = [
            f"{entry.name} -> {entry.target}"
            for entry in _own_entries(subject)
            if not _exists(entry)
        ]
        assert missing == []

    def test_probing_answers_whatever_the_environment_holds(self, subject: Subject) -> None:
        """No hardware is an answer; nonsense in a variable is no reason to raise."""
        for env in ({}, dict(os.environ), dict.fromkeys(os.environ, "\x00nonsense"), {"PATH": ""}):
            probe = subject.platform.probe(env)
            assert isinstance(probe, Probe)
            assert probe.reason.strip(), "the user must be told why"
            assert "\n" not in probe.reason, "one line: it is a row of a table"
            assert probe.device_count >= (1 if probe.ok else 0)
            assert probe.score >= 0

    def test_probing_repeats_itself_and_changes_nothing(self, subject: Subject) -> None:
        """The planner asks once, doctor asks again, and neither may leave a trace."""
        before = dict(os.environ), Path.cwd(), list(sys.path)
        first, second = subject.platform.probe({}), subject.platform.probe({})
        assert (first.ok, first.arch, first.score) == (second.ok, second.arch, second.score)
        assert (dict(os.environ), Path.cwd(), list(sys.path)) == before

    def test_probing_loads_no_torch(self, probing: Imported) -> None:
        """It runs in the planner, which starts in a fraction of a second.

        A vendor's management library may be opened there; the process stays as it was.
        """
        assert probing.error == ""
        assert probing.loaded(["torch", "jax", "tensorflow"]) == ()
        assert set(probing.changes) <= {"descriptors", "threads"}


def _own_entries(subject: Subject) -> Iterator[Entry]:
    for _, entry in subject.plugins.catalogue.lines():
        if entry.owner == subject.owner.source.name:
            yield entry


def _exists(entry: Entry) -> bool:
    module, _, attribute = entry.target.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return spec is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return attribute in {name for node in tree.body for name in _bound(node)}


def _bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            return [node.name]
        case ast.Assign():
            return [t.id for t in node.targets if isinstance(t, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.ImportFrom():
            return [alias.asname or alias.name for alias in node.names]
        case _:
            return []


def _is_standard(name: str) -> bool:
    return name in sys.stdlib_module_names or name.startswith("_")
