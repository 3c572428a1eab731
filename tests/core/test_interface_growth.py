"""A plugin written for 1.0 works unchanged when a minor adds hooks, arguments and methods."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pluggy
import pytest

from inferplane import hookspecs, plugins
from inferplane.hookspecs import Register, hookspec
from inferplane.interfaces import Platform
from inferplane.new_plugin import write_plugin
from inferplane.plugins import Plugins, PluginSource


@pytest.fixture
def old_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginSource:
    """What somebody built against interface 1.0."""
    monkeypatch.syspath_prepend(str(write_plugin("veteran", tmp_path)))
    return PluginSource("veteran", "inferplane_veteran.plugin")


@pytest.fixture
def next_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core of interface 1.1: one hook more, and one more argument for an old one."""
    grown = ModuleType("hookspecs")
    for name, value in vars(hookspecs).items():
        if name.startswith("register_"):
            setattr(grown, name, value)

    @hookspec
    def register_platforms(register: Register, api: tuple[int, int] = (1, 1)) -> None:
        """Offer hardware; `api` is new."""

    @hookspec
    def register_adapters(register: Register) -> None:
        """A door that is new."""

    grown.register_platforms = register_platforms  # type: ignore[attr-defined]
    grown.register_adapters = register_adapters  # type: ignore[attr-defined]
    monkeypatch.setattr(plugins, "hookspecs", grown)
    major, minor = plugins.INTERFACE_VERSION
    monkeypatch.setattr(plugins, "INTERFACE_VERSION", (major, minor + 1))


@pytest.mark.usefixtures("next_minor")
def test_an_old_plugin_loads_into_a_core_with_a_new_minor(old_plugin: PluginSource) -> None:
    loaded = Plugins([old_plugin])
    assert loaded.failed == {}, loaded.failed
    assert loaded.loaded[0].interface == (1, 0)
    assert "veteran" in loaded.catalogue["platforms"].names()


@pytest.mark.usefixtures("next_minor")
def test_a_plugin_may_take_the_new_argument_and_the_new_door(tmp_path: Path) -> None:
    module = ModuleType("modern")
    hookimpl = pluggy.HookimplMarker("inferplane")

    @hookimpl
    def register_adapters(register: Register) -> None:
        register("x", "a:b")

    module.register_adapters = register_adapters  # type: ignore[attr-defined]
    manager = pluggy.PluginManager("inferplane")
    manager.add_hookspecs(plugins.hookspecs)
    manager.register(module)
    manager.check_pending()


def test_a_new_optional_method_has_a_default_for_old_plugins(
    old_plugin: PluginSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warm_hint(self: Platform) -> str:
        """(optional) New in the next minor."""
        return ""

    monkeypatch.setattr(Platform, "warm_hint", warm_hint, raising=False)
    platform = Plugins([old_plugin]).catalogue["platforms"].get("veteran").load()()
    assert platform.warm_hint() == "" and platform.probe({}).ok


def test_a_plugin_of_a_newer_minor_is_told_what_to_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_plugin("youngster", tmp_path)
    entry = folder / "inferplane_youngster/plugin.py"
    entry.write_text(entry.read_text().replace("(1, 0)", "(1, 7)"))
    monkeypatch.syspath_prepend(str(folder))
    loaded = Plugins([PluginSource("youngster", "inferplane_youngster.plugin")])
    assert "upgrade inferplane" in loaded.failed["youngster"].error
