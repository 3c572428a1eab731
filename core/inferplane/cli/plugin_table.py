"""Every installed plugin as one row: what it is, whether it can be used, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from inferplane.device_choice import choose_device
from inferplane.errors import ConfigError
from inferplane.launch import DeviceReport
from inferplane.planner import PluginReport, Survey

__all__ = ["PluginRow", "format_table", "plugin_rows"]


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One plugin, or one platform of a plugin that offers several."""

    name: str
    """Of the device, or of a plugin without one."""
    plugin: str
    distribution: str
    version: str
    interface: str
    status: Literal["active", "usable", "not usable", "broken"]
    """active: what `--device auto` takes."""
    reason: str
    score: int = 0
    device_count: int = 0
    arch: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Driver, SDK and the like, as the probe told."""
    trace: str = ""
    """Traceback of a broken one."""


_RANKS = ("active", "usable", "not usable", "broken")


def plugin_rows(survey: Survey, device: str = "auto") -> tuple[PluginRow, ...]:
    """Rows in order of use: active, usable, not usable, broken; by score, then by name."""
    active = _active(survey, device)
    rows = []
    for plugin in survey.plugins:
        own = [report for report in survey.devices if report.plugin == plugin.name]
        if plugin.error:
            rows.append(_row(plugin, plugin.name, "broken", plugin.error, trace=plugin.trace))
        elif own:
            rows += [_device_row(plugin, report, report.name == active) for report in own]
        else:
            rows.append(_parts_row(plugin, survey))
    return tuple(sorted(rows, key=lambda row: (_RANKS.index(row.status), -row.score, row.name)))


def _active(survey: Survey, device: str) -> str:
    try:
        return choose_device(device, survey.devices, survey.failed).name
    except ConfigError:  # no device, or a tie: the rows themselves tell
        return ""


def _device_row(plugin: PluginReport, report: DeviceReport, active: bool) -> PluginRow:
    probe = report.probe
    if probe is None or report.error:
        return _row(plugin, report.name, "broken", report.error or "its probe gave no answer")
    if not probe.ok:
        row = _row(plugin, report.name, "not usable", probe.reason)
    else:
        told = f"{probe.reason}; score {probe.score}"
        row = _row(plugin, report.name, "active" if active else "usable", told)
    return replace(
        row,
        score=probe.score,
        device_count=probe.device_count,
        arch=probe.arch,
        versions=dict(probe.versions),
    )


def _parts_row(plugin: PluginReport, survey: Survey) -> PluginRow:
    """A plugin without a device of its own: parts for other plugins' devices."""
    lines = [(kind, entry) for kind, entry in survey.lines if entry.owner == plugin.name]
    wanted = sorted({label for _, entry in lines for label in entry.on})
    counted = Counter(kind.replace("_", " ") for kind, _ in lines)
    offers = ", ".join(f"{number} {kind}" for kind, number in sorted(counted.items())) or "nothing"
    labels = {label for name, caps in survey.capabilities.items() for label in (name, *caps.labels)}
    if not wanted or labels & set(wanted):
        return _row(plugin, plugin.name, "usable", f"offers {offers}")
    reason = f"offers {offers} for devices that answer to {' or '.join(wanted)}; none does here"
    return _row(plugin, plugin.name, "not usable", reason)


def _row(
    plugin: PluginReport,
    name: str,
    status: Literal["active", "usable", "not usable", "broken"],
    reason: str,
    trace: str = "",
) -> PluginRow:
    stated = ".".join(map(str, plugin.interface)) if plugin.interface else "?"
    version = plugin.version or "?"
    distribution = plugin.distribution or plugin.module
    return PluginRow(name, plugin.name, distribution, version, stated, status, reason, trace=trace)


def format_table(rows: Sequence[PluginRow]) -> str:
    """Aligned text, the reason last."""
    head = ("NAME", "VERSION", "INTERFACE", "STATUS", "REASON")
    cells = [head, *((r.name, r.version, r.interface, r.status, r.reason) for r in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = []
    for row in cells:
        fixed = "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
        lines.append(f"{fixed}  {row[4]}".rstrip())
    return "\n".join(lines)
