"""`inferplane matrix`: what each device does, and what that is known from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.config import ModelSettings
from inferplane.matrix import DeviceRow, declared_row, format_matrix, read_rows
from inferplane.planner import Survey, run_survey

__all__ = ["matrix"]


@with_settings(ModelSettings, model_first=False)
def matrix(
    given: Given,
    *,
    form: Annotated[
        Literal["text", "markdown", "json"], Parameter(name="--format", help="How to print it.")
    ] = "text",
    reports: Annotated[Path, Parameter(help="Folder of kit reports (*.json).")] = Path(
        "docs/reports"
    ),
    recorded: Annotated[
        bool, Parameter(negative=(), help="Only what reports say, nothing of this machine.")
    ] = False,
) -> int:
    """Show which device does what: dtypes, steps, attention, quantization.

    From recorded reports of the conformance kit; devices that are usable here and have no report
    are added with what their plugin declares.
    """
    rows = read_rows(reports) if reports.is_dir() else []
    if not recorded:
        settings = ModelSettings(**resolve_given(given).of(ModelSettings))
        seen = run_survey(settings.plugins, settings.without, settings.trace_plugins)
        rows += _declared(seen, rows)
    print(format_matrix(rows, form))
    return 0


def _declared(survey: Survey, known: list[DeviceRow]) -> list[DeviceRow]:
    reported = {row.device for row in known}
    versions = {plugin.name: plugin for plugin in survey.plugins}
    rows = []
    for device in survey.devices:
        caps = survey.capabilities.get(device.name)
        if caps is not None and device.probe is not None and device.name not in reported:
            plugin = versions[device.plugin]
            name = " ".join(part for part in (plugin.distribution, plugin.version) if part)
            rows.append(declared_row(device.name, name, device.probe.reason, caps))
    return rows
