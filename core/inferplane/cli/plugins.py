"""`inferplane plugins`: what is installed, what can be used, and why not the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.plugin_table import PluginRow, format_table, plugin_rows
from inferplane.config import ModelSettings
from inferplane.errors import UnknownNameError
from inferplane.interfaces import Capabilities
from inferplane.planner import Survey, run_survey
from inferplane.settings import nearest

__all__ = ["info_", "list_", "look"]

_NONE = (
    "no plugin installed: the core runs nothing by itself. 'inferplane doctor' says which one fits "
    "this machine; pip install 'inferplane[cpu]' fits any x86 processor"
)


def look(given: Given) -> tuple[Survey, tuple[PluginRow, ...]]:
    """The survey of a planner child, and its rows."""
    settings = ModelSettings(**resolve_given(given).of(ModelSettings))
    survey = run_survey(settings.plugins, settings.without, settings.trace_plugins)
    return survey, plugin_rows(survey, settings.device)


@with_settings(ModelSettings, model_first=False)
def list_(given: Given, *, json_: Annotated[bool, Parameter(help="As JSON.")] = False) -> int:
    """List all plugins with status and reason.

    active: the device that would be taken; usable; not usable, with what is missing; broken, with
    what went wrong when it was loaded or asked.
    """
    _, rows = look(given)
    if json_:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        print(format_table(rows))
    else:
        print(_NONE)
    return 0


@with_settings(ModelSettings, model_first=False)
def info_(
    given: Given,
    name: Annotated[str, Parameter(help="As `plugins list` shows it.")],
    *,
    json_: Annotated[bool, Parameter(help="As JSON.")] = False,
) -> int:
    """Show one plugin: what its probe saw, what its device can do, what it registers."""
    survey, rows = look(given)
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        names = [row.name for row in rows]
        raise UnknownNameError(
            f"no plugin {name!r} (installed: {', '.join(names) or 'none'}){nearest(name, names)}"
        )
    about = {**asdict(row), "capabilities": None, "offers": _offers(survey, row.plugin)}
    if name in survey.capabilities:
        about["capabilities"] = _plain(survey.capabilities[name])
    if json_:
        print(json.dumps(about, indent=2))
    else:
        _print(about)
    return 0


def _offers(survey: Survey, plugin: str) -> dict[str, list[str]]:
    offers: dict[str, list[str]] = {}
    for kind, entry in survey.lines:
        if entry.owner == plugin:
            suffix = f" on {', '.join(entry.on)}" if entry.on else ""
            offers.setdefault(kind, []).append(f"{entry.name}{suffix}")
    return offers


def _plain(capabilities: Capabilities) -> dict[str, object]:
    """Plain data; mappings may be of any kind."""
    return {key: _emptied(value) for key, value in asdict(capabilities).items()}


def _emptied(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def _print(about: Mapping[str, object], indent: str = "") -> None:
    """One line a fact; what is empty is left out."""
    for key, value in about.items():
        label = f"{indent}{key}"
        if isinstance(value, Mapping) and value:
            print(label)
            _print(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value:
            print(f"{label}: {', '.join(map(str, value))}")
        elif key == "trace" and value:
            print(f"{label}:\n{value}")
        elif value not in ("", None, {}, (), []):
            print(f"{label}: {value}")
