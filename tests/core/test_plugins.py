import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inferplane.plugins import Plugins, PluginSource, find_plugins

HOOK = """
from inferplane import Register, hookimpl
INTERFACE_VERSION = (1, 0)

@hookimpl
def register_platforms(register: Register) -> None:
    register("{name}", "{name}.platform:Platform")
"""

Write = Callable[[str, str], PluginSource]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module and return it as a plugin's source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def make(name: str, text: str) -> PluginSource:
        (tmp_path / f"{name}.py").write_text(text.replace("{name}", name))
        written.append(name)
        return PluginSource(name, name)

    yield make
    for name in written:
        sys.modules.pop(name, None)


def test_a_good_plugin_offers_its_lines_under_its_name(write) -> None:
    plugins = Plugins([write("good_one", HOOK)])
    entry = plugins.catalogue["platforms"].get("good_one")
    assert (entry.owner, entry.target) == ("good_one", "good_one.platform:Platform")
    assert not plugins.failed and plugins.loaded[0].interface == (1, 0)


BROKEN = {
    "raises": ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
    "imports_nothing": ("import a_module_that_is_not_there", "ModuleNotFoundError"),
    "syntax": ("def (", "SyntaxError"),
    "leaves": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "silent_version": (HOOK.replace("INTERFACE_VERSION = (1, 0)", ""), "INTERFACE_VERSION"),
    "odd_version": (HOOK.replace("(1, 0)", "'1.0'"), "INTERFACE_VERSION"),
    "old_version": (HOOK.replace("(1, 0)", "(0, 9)"), "upgrade the plugin"),
    "new_major": (HOOK.replace("(1, 0)", "(2, 0)"), "upgrade inferplane"),
    "new_minor": (HOOK.replace("(1, 0)", "(1, 99)"), "upgrade inferplane"),
    "misspelt": (HOOK.replace("register_platforms", "register_platform"), "register_platform"),
    "bad_target": (HOOK.replace(".platform:Platform", ""), "module:attribute"),
    "raises_in_hook": (HOOK.replace("register(", "1 / 0; register("), "ZeroDivisionError"),
}


@pytest.mark.case("broken-plugin")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_a_failed_row_and_hurts_nobody(write, kind) -> None:
    text, reason = BROKEN[kind]
    plugins = Plugins([write("a_good", HOOK), write(kind, text), write("z_good", HOOK)])
    assert list(plugins.failed) == [kind]
    assert reason in plugins.failed[kind].error
    assert "Traceback" in plugins.failed[kind].trace
    assert {"a_good", "z_good"} <= set(plugins.catalogue["platforms"].names())


def test_a_plugin_with_one_bad_line_offers_none(write) -> None:
    two = HOOK + '    register("second", "no target")\n'
    plugins = Plugins([write("half", two)])
    assert "half" not in plugins.catalogue["platforms"].names()


def test_a_second_owner_of_a_name_fails_and_names_both(write) -> None:
    same = HOOK.replace('register("{name}"', 'register("shared"')
    plugins = Plugins([write("first", same), write("second", same)])
    assert list(plugins.failed) == ["second"]
    assert "second and first" in plugins.failed["second"].error


def test_built_in_models_come_through_the_same_doors() -> None:
    models = Plugins().catalogue["models"]
    assert models.get("LlamaForCausalLM").owner == "inferplane"


def test_installed_plugins_are_found_by_their_entry_points() -> None:
    found = {source.name: source for source in find_plugins(None)}
    assert found["cpu"].module == "inferplane_cpu.plugin"
    assert found["cpu"].distribution == "inferplane-cpu"
    assert list(found) == sorted(found)


def test_allowed_names_are_exactly_what_loads_and_may_be_modules() -> None:
    found = find_plugins(("cpu", "inferplane_acme.plugin"))
    assert [(source.name, source.module) for source in found] == [
        ("acme", "inferplane_acme.plugin"),
        ("cpu", "inferplane_cpu.plugin"),
    ]


def test_denied_plugins_are_not_imported(write) -> None:
    assert "cpu" not in {source.name for source in find_plugins(None, ("cpu",))}


def test_each_name_is_told_before_its_import(write) -> None:
    told: list[str] = []
    source = write("loud", "raise RuntimeError")
    Plugins([source], note=told.append)
    assert told == ["loud"]


def test_no_leaves_one_out_of_the_others() -> None:
    names = {source.name for source in find_plugins(None)}
    assert {source.name for source in find_plugins(("no:cpu",))} == names - {"cpu"}
    assert [source.name for source in find_plugins(("cpu", "cuda", "no:cuda"))] == ["cpu"]
    assert find_plugins(()) == []


def test_a_trace_tells_what_each_hook_offered(write) -> None:
    calls: list[str] = []
    Plugins([write("traced_one", HOOK)], trace=calls.append)
    (ours,) = [call for call in calls if call.startswith("traced_one:")]
    assert ours.startswith("traced_one: register_platforms -> 1 lines, ") and ours.endswith(" ms")
