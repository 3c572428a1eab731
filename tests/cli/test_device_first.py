"""A device that cannot be used is told before anything is fetched for it."""

import os
from pathlib import Path

import pytest

from inferplane.cli.app import run
from inferplane.config import DEFAULT_MODEL

NULL = ("--plugins", "inferplane.testing.null")
PLUGIN = """
from inferplane import Register, hookimpl
from inferplane.interfaces import Probe
INTERFACE_VERSION = (1, 0)


class Device:
    def probe(self, env):
        return Probe(False, "the driver is not loaded")


@hookimpl
def register_platforms(register: Register) -> None:
    register("acme", "absent_plugin:Device")
"""


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package index without a package: whatever is fetched fails."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("INFERPLANE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.case("silent-cpu")
@pytest.mark.parametrize(
    "verb",
    [
        ("serve",),
        ("serve", "some-org/some-model"),
        ("chat", "--once", "hi"),
        ("generate", "hi"),
        ("bench", "offline"),
    ],
    ids=" ".join,
)
def test_nothing_is_fetched_for_a_device_without_a_plugin(
    verb: tuple[str, ...], nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb, "--device", "acme", *NULL]) == 3
    said = capsys.readouterr().err
    assert "no plugin offers device 'acme' (known: null, " in said
    assert not nowhere.exists()


def test_a_device_that_is_not_there_gives_its_own_reason_first(
    nowhere: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "absent_plugin.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    plugins = ("--plugins", "absent_plugin,inferplane.testing.null")
    assert run(["serve", "--device", "acme", *plugins]) == 3
    said = capsys.readouterr().err
    assert "device acme: the driver is not loaded; usable here: --device null" in said
    assert not nowhere.exists()


def test_a_usable_device_lets_the_fetch_begin(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", DEFAULT_MODEL, "--device", "null", *NULL]) == 2
    assert "device" not in capsys.readouterr().err
    assert nowhere.exists()


def test_a_model_that_is_not_fetched_gets_no_survey(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--offline", "--device", "acme", *NULL]) == 2
    assert "--offline forbids" in capsys.readouterr().err
