"""A cell says what a report says, and nothing is claimed where nobody asked."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import Capabilities, SchedulerLimits
from inferplane.matrix import build_row, declared_row, format_matrix, read_rows
from inferplane.testing.conformance.report import Outcome, Report
from inferplane.testing.conformance.subject import find_subject

REPORT: dict[str, Any] = {
    "device": "acme",
    "plugin": {"name": "acme", "distribution": "inferplane-acme", "version": "0.3"},
    "evidence": "ran on hardware",
    "badge": "L7",
    "quick": False,
    "probe": {"reason": "two cards"},
    "date": "2030-01-02",
    "kind": "wide",
    "capabilities": {"compute_dtypes": ["bfloat16"], "fp8": "e4m3fn"},
    "features": {
        "refusal": "",
        "steps": {"chunked prefill": True, "speculation": False},
        "attention": {"grouped heads": "flash", "sinks": "reference", "soft cap": ""},
        "quantization": {"int8 weights": "acme_int8", "fp8 weights": "dequantized"},
    },
}


def test_every_cell_tells_who_does_it() -> None:
    row = build_row(REPORT)
    assert row.cells == {
        "arithmetic": {"float32": "no", "bfloat16": "native", "float16": "no", "fp8": "native"},
        "steps": {"chunked prefill": "native", "speculation": "no"},
        "attention": {"grouped heads": "native", "sinks": "emulated", "soft cap": "unknown"},
        "quantization": {"int8 weights": "native", "fp8 weights": "dequantized"},
    }
    assert (row.plugin, row.badge, row.where) == (
        "inferplane-acme 0.3",
        "L7",
        "two cards; 2030-01-02",
    )


def test_a_device_that_refuses_to_serve_has_no_cell_but_no() -> None:
    report = deepcopy(REPORT)
    report["features"]["refusal"] = "this release only detects it"
    row = build_row(report)
    assert row.note == "this release only detects it"
    assert {cell for section in row.cells.values() for cell in section.values()} == {"no"}


def test_a_quick_run_says_so() -> None:
    assert build_row({**REPORT, "quick": True}).badge == "L7 (quick)"


def test_what_was_only_declared_claims_nothing_of_attention_and_quantization() -> None:
    caps = Capabilities(limits=SchedulerLimits(chunked_prefill=True))
    row = declared_row("acme", "inferplane-acme 0.3", "found", caps)
    assert row.evidence == "declared" and row.badge == ""
    assert row.cells["steps"]["chunked prefill"] == "native"
    assert row.cells["attention"] == {} and row.cells["quantization"] == {}
    text = format_matrix([build_row(REPORT), row], "text")
    assert any(line.split() == ["grouped", "heads", "native", "?"] for line in text.splitlines())


def test_markdown_is_a_table_with_a_column_a_device() -> None:
    lines = format_matrix([build_row(REPORT)], "markdown").splitlines()
    assert "| arithmetic | acme |" in lines and "| bfloat16 | native |" in lines


def test_json_keeps_everything() -> None:
    (row,) = json.loads(format_matrix([build_row(REPORT)], "json"))
    assert row["cells"]["attention"]["sinks"] == "emulated"


def test_the_kits_own_report_is_read(tmp_path: Path) -> None:
    report = Report(find_subject("tpu", ["tpu"]), [Outcome("t", 0, "passed")])
    report.write(tmp_path / "tpu.json")
    (row,) = read_rows(tmp_path)
    assert row.device == "tpu" and row.badge == "L0" and row.evidence == "declared"
    assert row.note == "" and row.where.startswith("no TPU found")


def test_a_file_that_is_no_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"device": "acme"}')
    with pytest.raises(ConfigError, match=r"other\.json: is no kit report"):
        read_rows(tmp_path)
