"""Checks of plugins, devices and torch, as children reported them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata, resources
from importlib.util import find_spec

from inferplane.cli.checks.finding import Finding, Machine, fail, ok, skip, warn
from inferplane.probing import pci_devices

__all__ = [
    "device_choice",
    "one_best_device",
    "plugin_installed",
    "plugins_load",
    "torch_imports",
]

_IMPORT_S = 120.0


def plugin_installed(machine: Machine) -> Finding:
    """There is a plugin at all, and one for the hardware that the machine seems to have."""
    text = resources.files("inferplane").joinpath("install_hints.toml").read_text("utf-8")
    installed = {row.name for row in machine.plugins}
    lacking = [
        f"pip install 'inferplane[{hint['plugin']}]'"
        for hint in tomllib.loads(text)["pci"]
        if hint["plugin"] not in installed and _has(machine, hint)
    ]
    if not installed:
        return fail("no plugin is installed", (lacking or ["pip install 'inferplane[cpu]'"])[0])
    if lacking:
        return warn("the machine has hardware whose plugin is not installed", "; ".join(lacking))
    return ok(", ".join(sorted(installed)))


def _has(machine: Machine, hint: dict[str, str]) -> bool:
    return any(
        not hint.get("devices") or device in hint["devices"]
        for device in pci_devices(machine.root, hint["vendor"])
    )


def plugins_load(machine: Machine) -> Finding:
    """No installed plugin is broken."""
    broken = [row for row in machine.plugins if row.status == "broken"]
    if broken:
        return fail(
            "; ".join(f"{row.name}: {row.reason}" for row in broken),
            f"pip install --force-reinstall {' '.join(r.distribution or r.name for r in broken)}, "
            f"or leave it out: --without {','.join(row.name for row in broken)}",
        )
    return ok(f"{len(machine.plugins)} plugins load")


def device_choice(machine: Machine) -> Finding:
    """Some device can run a model."""
    active = [row for row in machine.plugins if row.status == "active"]
    if active:
        return ok(f"{active[0].name}: {active[0].reason}")
    return fail(
        f"none of {len(machine.plugins)} plugins has a usable device",
        "inferplane plugins   tells what each one misses",
    )


def one_best_device(machine: Machine) -> Finding:
    """The automatic choice is no tie."""
    usable = sorted(row.score for row in machine.plugins if row.status in ("active", "usable"))
    if len(usable) < 2:
        return skip("fewer than two usable devices")
    if usable[-1] == usable[-2]:
        names = [row.name for row in machine.plugins if row.score == usable[-1]]
        return warn(f"{' and '.join(names)} score the same", f"choose one: --device {names[0]}")
    best = next(row.name for row in machine.plugins if row.score == usable[-1])
    return ok(f"{len(usable)} usable devices, {best} is taken")


def torch_imports(machine: Machine) -> Finding:
    """torch loads, in a child with a deadline: a broken build may crash or hang."""
    if find_spec("torch") is None:
        return skip("torch is not installed; plugins that need it say so")
    version = metadata.version("torch")
    try:
        child = subprocess.run(
            [sys.executable, "-c", "import torch"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_S,
        )
    except subprocess.TimeoutExpired:
        return fail(f"torch {version}: import takes more than {_IMPORT_S:g} s", _REINSTALL)
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or [f"it died with {child.returncode}"])[-1]
        return fail(f"torch {version} does not import: {last}", _REINSTALL)
    return ok(f"torch {version} imports")


_REINSTALL = "pip install --force-reinstall torch, in the build for your device"
