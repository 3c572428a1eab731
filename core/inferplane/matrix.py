"""The compatibility matrix: device x what it does, from recorded kit reports and declared facts.

Knows no device; a cell says only what a report or a platform's capabilities say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from inferplane.errors import ConfigError
from inferplane.interfaces import Capabilities

__all__ = ["DTYPES", "Cell", "DeviceRow", "build_row", "declared_row", "format_matrix", "read_rows"]

Cell: TypeAlias = Literal["native", "dequantized", "emulated", "no", "unknown"]
"""native: by a part of the device or its executor; dequantized: weights are expanded, then
multiplied; emulated: by the core's reference, correct and slow; unknown: nobody could ask."""

DTYPES = ("float32", "bfloat16", "float16")
"""Arithmetic that has a cell."""
_SHOWN: Mapping[Cell, str] = {
    "native": "native",
    "dequantized": "dequantized",
    "emulated": "emulated",
    "no": "–",
    "unknown": "?",
}


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device of the matrix."""

    device: str
    plugin: str
    """Distribution and version."""
    evidence: str
    """ran on hardware, ran on the vendor's CPU mode, compiled only, or declared."""
    badge: str
    """Highest full level of the kit, or "" where it never ran."""
    where: str
    """What the probe said there, and when."""
    note: str
    """Why it serves nothing, if so."""
    cells: Mapping[str, Mapping[str, Cell]]
    """Section -> feature -> cell."""


def read_rows(folder: Path) -> list[DeviceRow]:
    """A row for each kit report (*.json) in a folder, by device. Raises ConfigError."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            rows.append(build_row(report))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: is no kit report: {error!r}") from error
    return rows


def build_row(report: Mapping[str, Any]) -> DeviceRow:
    """The row of one kit report. Raises KeyError, TypeError for what is none."""
    plugin, features, caps = report["plugin"], report["features"], report["capabilities"]
    refusal = features["refusal"]
    name = " ".join(part for part in (plugin["distribution"], plugin["version"]) if part)
    return DeviceRow(
        device=report["device"],
        plugin=name or plugin["name"],
        evidence=report["evidence"],
        badge=report["badge"] + (" (quick)" if report["quick"] else ""),
        where=f"{report['probe']['reason']}; {report['date']}",
        note=refusal,
        cells=_cells(
            caps["compute_dtypes"], caps["fp8"], features, report["kind"], serves=not refusal
        ),
    )


def declared_row(device: str, plugin: str, reason: str, caps: Capabilities) -> DeviceRow:
    """The row of a device that was asked and never run by the kit."""
    limits = caps.limits
    features = {
        "steps": {
            "chunked prefill": limits.chunked_prefill,
            "prefill beside decode": limits.mix_prefill_decode,
            "prefix cache": limits.prefix_cache,
            "overlapped steps": limits.async_steps > 0,
            "speculation": limits.max_drafts > 0,
        },
        "attention": {},
        "quantization": {},
    }
    cells = _cells(caps.compute_dtypes, caps.fp8, features, "", serves=True)
    return DeviceRow(device, plugin, "declared", "", reason, "", cells)


def format_matrix(rows: Sequence[DeviceRow], form: Literal["text", "markdown", "json"]) -> str:
    """The whole matrix, a section after the other; devices are columns."""
    if form == "json":
        return json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False)
    if not rows:
        return "no report and no usable device: nothing is known"
    tables = [("evidence", _evidence_table(rows))]
    for section in rows[0].cells:
        features = list(dict.fromkeys(name for row in rows for name in row.cells[section]))
        if not features:
            continue
        table = [[section, *(row.device for row in rows)]]
        for feature in features:
            shown = [_SHOWN[row.cells[section].get(feature, "unknown")] for row in rows]
            table.append([feature, *shown])
        tables.append((section, table))
    draw = _markdown if form == "markdown" else _text
    return "\n\n".join(draw(table) for _, table in tables)


def _cells(
    dtypes: Sequence[str], fp8: str, features: Mapping[str, Any], kind: str, serves: bool
) -> dict[str, dict[str, Cell]]:
    def when(holds: bool) -> Cell:
        return "native" if holds and serves else "no"

    own: Cell = "unknown" if serves else "no"
    attention = {
        name: "no" if not serves else _attention_cell(owner)
        for name, owner in features["attention"].items()
    }
    quantization = {
        name: "no" if not serves else _quantization_cell(owner)
        for name, owner in features["quantization"].items()
    }
    if kind == "narrow":  # its executor decides; levels L3 and L6 of its report say what was run
        attention, quantization = {"inside its own executor": own}, {}
    sections: dict[str, dict[str, Cell]] = {
        "arithmetic": {
            **{dtype: when(dtype in dtypes) for dtype in DTYPES},
            "fp8": when(fp8 != "none"),
        },
        "steps": {name: when(bool(on)) for name, on in features["steps"].items()},
        "attention": attention,
        "quantization": quantization,
    }
    return sections


def _attention_cell(owner: str) -> Cell:
    return "unknown" if not owner else "emulated" if owner == "reference" else "native"


def _quantization_cell(owner: str) -> Cell:
    return "unknown" if not owner else "dequantized" if owner == "dequantized" else "native"


def _evidence_table(rows: Sequence[DeviceRow]) -> list[list[str]]:
    table = [["device", "plugin", "kit", "evidence", "where", "note"]]
    for row in rows:
        table.append(
            [row.device, row.plugin, row.badge or "–", row.evidence, row.where, row.note or "–"]
        )
    return table


def _markdown(table: list[list[str]]) -> str:
    head, *body = ([cell.replace("|", "\\|") for cell in line] for line in table)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(table: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
