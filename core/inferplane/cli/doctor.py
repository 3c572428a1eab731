"""`inferplane doctor`: run every check, print one line each, with the command that fixes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from inferplane.cli.checks import files, hardware, installation, limits, network
from inferplane.cli.checks.finding import Check, Finding, Machine, Status, warn
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.plugin_table import plugin_rows
from inferplane.config import ModelSettings, ServeSettings, cache_folder, current_environment
from inferplane.planner import run_survey

__all__ = ["CHECKS", "doctor"]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("D01", installation.python_version),
    ("D02", installation.matching_versions),
    ("D03", installation.requirements_met),
    ("D04", installation.stale_entry_points),
    ("D05", installation.command_on_path),
    ("D06", installation.installer),
    ("D10", hardware.plugin_installed),
    ("D11", hardware.plugins_load),
    ("D12", hardware.device_choice),
    ("D13", hardware.one_best_device),
    ("D14", hardware.torch_imports),
    ("D20", files.cache_writable),
    ("D21", files.cache_room),
    ("D22", files.half_downloads),
    ("D23", files.cached_models),
    ("D30", limits.memory),
    ("D31", limits.cores),
    ("D32", limits.open_files),
    ("D33", limits.shared_memory),
    ("D34", limits.c_library),
    ("D35", limits.clock),
    ("D40", network.port_free),
    ("D41", network.key_beyond_loopback),
    ("D42", network.proxy_spares_loopback),
)
"""Codes are stable: scripts and docs name them."""

_SHOWN = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL", "skip": "-   "}
_WORDS: tuple[tuple[Status, str], ...] = (
    ("ok", "ok"),
    ("warn", "warnings"),
    ("fail", "failures"),
    ("skip", "not applicable"),
)


@with_settings(ModelSettings, ServeSettings, model_first=False)
def doctor(given: Given, *, json_: Annotated[bool, Parameter(help="As JSON.")] = False) -> int:
    """Check this machine and print a fix for each fault.

    Exit code 1 when a check fails. Plugins and torch are tried in children with a deadline; nothing
    is changed.
    """
    machine = _machine(given)
    findings = {code: _guarded(check, machine) for code, check in CHECKS}
    if json_:
        print(json.dumps({code: asdict(found) for code, found in findings.items()}, indent=2))
    else:
        for code, found in findings.items():
            print(f"{code} {_SHOWN[found.status]}  {found.seen}")
            if found.fix:
                print(f"          fix: {found.fix}")
        print(_summary(findings.values()))
    return 1 if any(found.status == "fail" for found in findings.values()) else 0


def _machine(given: Given) -> Machine:
    resolved = resolve_given(given)
    what = ModelSettings(**resolved.of(ModelSettings))
    values = resolved.values
    environ = current_environment()
    return Machine(
        environ=environ,
        cache=what.cache or cache_folder(environ),
        host=str(values["host"]),
        port=int(str(values["port"])),
        has_key=bool(values["api_keys"] or values["api_key_file"] or values["insecure_no_auth"]),
        plugins=plugin_rows(run_survey(what.plugins, what.without), what.device),
    )


def _guarded(check: Check, machine: Machine) -> Finding:
    """A check that itself fails is a finding too: the others still run."""
    try:
        return check(machine)
    except OSError as error:
        return warn(f"{check.__name__} could not look: {error}", "make what it names readable")


def _summary(findings: Iterable[Finding]) -> str:
    counted = Counter(found.status for found in findings)
    return ", ".join(f"{counted[status]} {word}" for status, word in _WORDS)
