"""Laws of the plugin table: everything installed is a row, nothing broken stops the rest."""

import json
from pathlib import Path

import pytest

from inferplane.cli.app import run
from inferplane.cli.plugin_table import PluginRow, format_table, plugin_rows
from inferplane.interfaces import Capabilities, Probe
from inferplane.launch import DeviceReport
from inferplane.planner import PluginReport, Survey
from inferplane.registry import Entry


def plugin(name: str, error: str = "") -> PluginReport:
    return PluginReport(name, f"inferplane_{name}.plugin", "", "0.1.0", (1, 0), error)


def device(name: str, ok: bool, score: int, error: str = "") -> DeviceReport:
    probe = None if error else Probe(ok, f"probe of {name}", score)
    return DeviceReport(name, name, probe, error)


def statuses(rows: tuple[PluginRow, ...]) -> dict[str, str]:
    return {row.name: row.status for row in rows}


def test_the_best_device_is_active_and_rows_come_in_order_of_use() -> None:
    survey = Survey(
        (plugin("broken", "ImportError: x"), plugin("far"), plugin("fast"), plugin("slow")),
        (device("far", False, 0), device("fast", True, 50), device("slow", True, 10)),
    )
    assert list(statuses(plugin_rows(survey)).items()) == [
        ("fast", "active"),
        ("slow", "usable"),
        ("far", "not usable"),
        ("broken", "broken"),
    ]


def test_a_requested_device_is_the_active_one() -> None:
    survey = Survey(
        (plugin("fast"), plugin("slow")), (device("fast", True, 50), device("slow", True, 10))
    )
    assert statuses(plugin_rows(survey, "slow")) == {"slow": "active", "fast": "usable"}


def test_a_tie_makes_none_active() -> None:
    survey = Survey((plugin("a"), plugin("b")), (device("a", True, 50), device("b", True, 50)))
    assert set(statuses(plugin_rows(survey)).values()) == {"usable"}


def test_a_probe_that_failed_is_broken_with_its_error() -> None:
    [row] = plugin_rows(Survey((plugin("a"),), (device("a", False, 0, "RuntimeError: boom"),)))
    assert (row.status, row.reason) == ("broken", "RuntimeError: boom")


@pytest.mark.parametrize(("labels", "status"), [(("tiles",), "usable"), ((), "not usable")])
def test_a_plugin_of_parts_is_usable_where_a_device_answers_to_its_label(
    labels: tuple[str, ...], status: str
) -> None:
    entry = Entry("rms_norm/1", "parts.norm:norm", "parts", ("tiles",))
    survey = Survey(
        (plugin("parts"), plugin("acme")),
        (device("acme", True, 50),),
        {"acme": Capabilities(labels=labels)},
        (("kernels", entry),),
    )
    rows = {row.name: row for row in plugin_rows(survey)}
    assert rows["parts"].status == status
    assert "1 kernels" in rows["parts"].reason


def test_columns_are_aligned_and_the_reason_comes_last() -> None:
    rows = [
        PluginRow("a", "a", "", "0.1.0", "1.0", "active", "because"),
        PluginRow("long-name", "l", "", "0.1.0", "1.0", "not usable", "no card"),
    ]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "INTERFACE", "STATUS", "REASON"]
    place = lines[0].index("REASON")
    assert [line[place:] for line in lines] == ["REASON", "because", "no card"]


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert run(["plugins", *arguments, "--json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_plugin_that_raises_at_import_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inferplane_bad").mkdir()
    (tmp_path / "inferplane_bad" / "plugin.py").write_text("raise OSError('libbad.so is gone')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = listed(capsys, "--plugins", "inferplane_bad.plugin,inferplane.testing.null")
    bad = next(row for row in rows if row["name"] == "bad")
    assert (bad["status"], bad["reason"]) == ("broken", "OSError: libbad.so is gone")
    assert "libbad.so" in str(bad["trace"])
    assert any(row["name"] == "null" for row in rows)


def test_a_plugin_that_kills_its_process_is_a_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inferplane_deadly").mkdir()
    (tmp_path / "inferplane_deadly" / "plugin.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = listed(capsys, "--plugins", "inferplane_deadly.plugin,inferplane.testing.null")
    assert {row["name"]: row["status"] for row in rows}["deadly"] == "broken"


def test_no_plugin_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "--plugins", ""]) == 0
    assert "no plugin installed" in capsys.readouterr().out


def test_an_unknown_plugin_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "info", "nul", "--plugins", "inferplane.testing.null"]) == 2
    assert "did you mean null?" in capsys.readouterr().err


def test_info_shows_capabilities_of_a_usable_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "info", "null", "--plugins", "inferplane.testing.null"]) == 0
    shown = capsys.readouterr().out
    assert "capabilities\n" in shown
    assert "platforms: null" in shown
