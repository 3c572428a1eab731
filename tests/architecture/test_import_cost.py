"""Importing a light module is cheap and leaves the process alone, seen in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from inferplane.testing.fresh_interpreter import imports_of

HEAVY = (
    "torch",
    "transformers",
    "triton",
    "jax",
    "torch_xla",
    "habana_frameworks",
    "torch_neuronx",
    "amdsmi",
    "pynvml",
)
NO_TORCH = (
    "server",
    "engine",
    "scheduling",
    "tokenization",
    "grammar",
    "sampling",
    "shapes",
    "interfaces",
    "checkpoint",
    "cli",
    "selection",
    "planner",
    "launch",
    "plugins",
    "config",
    "catalogue",
    "model_config",
    "probing",
    "registry",
)
"""Rooms of the core that the API process and the planner load."""


def test_importing_the_package_costs_nothing() -> None:
    seen = imports_of(["inferplane"])["inferplane"]
    outside = {name.split(".")[0] for name in seen.new_modules} - set(sys.stdlib_module_names)
    assert outside <= {"inferplane"}
    assert seen.changes == ()


def test_entry_modules_and_platforms_load_no_sdk_and_change_nothing(sources: list) -> None:
    light = [
        s.module
        for s in sources
        if s.module.split(".")[0] != "inferplane"
        and s.module.endswith((".plugin", ".platform", "._sdk"))
    ]
    assert len(light) >= 7
    for module, seen in imports_of(light).items():
        assert seen.loaded(HEAVY) == (), module
        assert seen.changes == (), module
        assert seen.printed == "", module


def test_what_serves_and_schedules_never_loads_torch(sources: list) -> None:
    rooms = [
        s.module
        for s in sources
        if s.module.split(".")[:2][-1] in NO_TORCH and s.module.startswith("inferplane.")
    ]
    program = "import importlib, json, sys\n" + (
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps([m for m in json.loads(sys.argv[2]) if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(rooms), json.dumps(HEAVY)],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_kit_is_light_until_it_is_used() -> None:
    """pytest loads it in every run of everybody who installed the core."""
    seen = imports_of(["pytest", "inferplane.testing.pytest_plugin"])
    assert seen["inferplane.testing.pytest_plugin"].loaded((*HEAVY, "numpy")) == ()
