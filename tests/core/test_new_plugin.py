"""A new plugin is complete, small, and named as asked. That it works, tests/mutants shows."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

from inferplane.errors import ConfigError
from inferplane.new_plugin import line_count, write_plugin

VARIANTS = ["narrow", "wide"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_plugin_is_a_complete_distribution(tmp_path: Path, variant: Any) -> None:
    folder = write_plugin("my_device2", tmp_path, variant)
    assert folder == tmp_path / "inferplane-my_device2"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "inferplane-my_device2"
    assert project["entry-points"]["inferplane"] == {"my_device2": "inferplane_my_device2.plugin"}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "tests/test_my_device2.py", ".github/workflows/test.yml"} <= names
    assert not any("acme" in name or name.endswith(".tmpl") for name in names)
    assert "MyDevice2" in (folder / "inferplane_my_device2/platform.py").read_text()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_read_in_a_few_minutes(tmp_path: Path, variant: Any) -> None:
    folder = write_plugin("mydevice", tmp_path, variant)
    assert line_count(folder) <= 300
    for path in folder.rglob("*.py"):
        text = path.read_text()
        ast.parse(text)
        assert max(len(line) for line in text.splitlines()) <= 100, path
        assert "acme" not in text.lower(), path


@pytest.mark.parametrize("name", ["", "My", "my-device", "2fast", "class", "a b", "../up", "é"])
def test_a_name_that_is_no_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a plugin"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_plugin("mydevice", tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        write_plugin("mydevice", tmp_path)


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="narrow, wide"):
        write_plugin("mydevice", tmp_path, "flat")  # type: ignore[arg-type]
