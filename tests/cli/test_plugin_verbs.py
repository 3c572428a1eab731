"""`plugins new` and `matrix` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferplane.cli.app import run


def test_plugins_new_writes_a_plugin_and_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plugins", "new", "mydevice", "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert (tmp_path / "inferplane-mydevice/inferplane_mydevice/plugin.py").exists()
    assert "inferplane serve --device mydevice" in told and "lines)" in told


def test_a_name_that_cannot_be_used_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plugins", "new", "My-Device", "--folder", str(tmp_path)]) == 2
    assert "cannot name a plugin" in capsys.readouterr().err


def test_the_matrix_of_recorded_reports_needs_no_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["matrix", "--reports", str(tmp_path), "--recorded"]) == 0
    assert "nothing is known" in capsys.readouterr().out


def test_devices_without_a_report_are_shown_as_declared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["matrix", "--reports", str(tmp_path), "--format", "json"]
    assert run([*arguments, "--plugins", "inferplane.testing.null"]) == 0
    rows = {row["device"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["null"]["evidence"] == "declared"
