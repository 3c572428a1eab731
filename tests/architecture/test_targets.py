"""Every registered target exists, and every distribution is known to every tool."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

from inferplane.interfaces import INTERFACE_VERSION
from inferplane.plugins import BUILTIN, Plugins, PluginSource

FIRST_PARTY = ("cpu", "cuda", "gaudi", "neuron", "rocm", "tpu", "triton", "xpu")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    sources = [PluginSource(name, f"inferplane_{name}.plugin") for name in FIRST_PARTY]
    return Plugins(sources)


@pytest.fixture(scope="module")
def config(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def test_every_first_party_plugin_loads(plugins: Plugins) -> None:
    assert {name: p.trace for name, p in plugins.failed.items()} == {}
    assert [p.source.name for p in plugins.loaded] == list(FIRST_PARTY)


def test_every_registered_target_exists_in_the_source(plugins: Plugins, sources: list) -> None:
    """By syntax tree: nothing is imported, so a missing SDK cannot hide a typing error."""
    trees = {source.module: source.tree for source in sources}
    missing = []
    for kind, entry in plugins.catalogue.lines():
        module, _, attribute = entry.target.partition(":")
        if module not in trees or attribute not in _bound_names(trees[module]):
            missing.append(f"{entry.owner}: {kind} {entry.name!r} -> {entry.target}")
    assert missing == []


def test_a_typing_error_in_a_target_would_be_found() -> None:
    tree = ast.parse("class Real: ...\nfrom somewhere import other as Alias\nx: int = 1")
    assert _bound_names(tree) == {"Real", "Alias", "x"}


def test_every_entry_module_states_its_interface_version_as_a_literal(sources: list) -> None:
    entry_modules = [s for s in sources if s.module.endswith(".plugin") and s.module not in BUILTIN]
    assert len(entry_modules) >= len(FIRST_PARTY)
    for source in entry_modules:
        stated = [
            ast.literal_eval(node.value)
            for node in source.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTERFACE_VERSION"
        ]
        assert len(stated) == 1 and (1, 0) <= stated[0] <= INTERFACE_VERSION, source.path


def test_every_distribution_is_known_to_every_tool(
    config: dict[str, Any], distributions: dict[str, Path]
) -> None:
    names = set(distributions)
    plugin_names = names - {"inferplane"}
    tools = config["tool"]
    assert names == {"inferplane"} | {f"inferplane_{name}" for name in FIRST_PARTY}
    assert set(tools["mypy"]["packages"]) == names
    assert set(tools["importlinter"]["root_packages"]) == names
    assert set(tools["uv"]["sources"]) == {name.replace("_", "-") for name in names}
    contracts = {contract["name"]: contract for contract in tools["importlinter"]["contracts"]}
    assert set(contracts["plugins do not know each other"]["modules"]) == plugin_names
    never = contracts["the core never imports a plugin"]["forbidden_modules"]
    assert set(never) == plugin_names
    public = contracts["plugins use public parts of the core only"]["source_modules"]
    assert set(public) == plugin_names


def test_every_distribution_is_installed_by_the_developer_command(
    root: Path, distributions: dict[str, Path]
) -> None:
    lines = (root / "requirements-dev.txt").read_text().splitlines()
    installed = {line.removeprefix("-e ./").strip() for line in lines if line.startswith("-e")}
    folders = {folder.relative_to(root).as_posix() for folder in distributions.values()}
    assert installed == folders


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_every_plugin_has_one_entry_point_and_the_version_of_the_core(
    root: Path, name: str
) -> None:
    core = tomllib.loads((root / "core/pyproject.toml").read_text())["project"]
    mine = tomllib.loads((root / f"plugins/{name}/pyproject.toml").read_text())["project"]
    assert mine["name"] == f"inferplane-{name}"
    assert mine["version"] == core["version"]
    assert mine["entry-points"] == {"inferplane": {name: f"inferplane_{name}.plugin"}}
    minor = ".".join(core["version"].split(".")[:2])
    assert f"inferplane=={minor}.*" in mine["dependencies"]
    assert name in core["optional-dependencies"]


@pytest.mark.parametrize("name", ("core", *(f"plugins/{name}" for name in FIRST_PARTY)))
def test_nothing_importable_stands_beside_a_package(root: Path, name: str) -> None:
    """An editable install puts that folder on everybody's import path."""
    beside = {p.name for p in (root / name).glob("*.py")}
    packages = {p.parent.name for p in (root / name).glob("*/__init__.py")}
    assert beside <= {"setup.py"} and len(packages) == 1


def _bound_names(tree: ast.Module) -> set[str]:
    """What a module's top level binds."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                names.add(node.name)
            case ast.Assign():
                names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom():
                names |= {alias.asname or alias.name for alias in node.names}
            case _:
                pass
    return names
