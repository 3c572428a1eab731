"""Import modules in a fresh interpreter and say what that did to the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Imported", "imports_of"]

_CHILD = """
import importlib, io, json, os, signal, sys, threading, time

def state():
    handlers = {}
    for number in signal.valid_signals():
        handlers[str(int(number))] = repr(signal.getsignal(number))
    return {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "signal handlers": handlers,
        "import path": list(sys.path),
        "threads": threading.active_count(),
        "descriptors": sorted(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else [],
    }

import inferplane.hookspecs, inferplane.interfaces, inferplane.probing
answer, real = {}, sys.stdout

def probe(target):
    module, _, attribute = target.partition(":")
    getattr(sys.modules[module], attribute)().probe(dict(os.environ))

tasks = [(name, importlib.import_module, name) for name in json.loads(sys.argv[1])]
if sys.argv[2]:
    tasks.append(("probe", probe, sys.argv[2]))
for name, task, argument in tasks:
    modules, before = set(sys.modules), state()
    sys.stdout = io.StringIO()
    started, error = time.perf_counter(), ""
    try:
        task(argument)
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
    seconds, after = time.perf_counter() - started, state()
    answer[name] = {
        "new_modules": sorted(set(sys.modules) - modules),
        "changes": sorted(key for key in before if before[key] != after[key]),
        "printed": sys.stdout.getvalue(),
        "seconds": seconds,
        "error": error,
    }
    sys.stdout = real
print(json.dumps(answer))
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """What importing one module did to a process that had loaded the interface before."""

    new_modules: tuple[str, ...]
    changes: tuple[str, ...]
    """Which parts of the process state differ: environment, working directory, …"""
    printed: str
    seconds: float
    error: str = ""

    def loaded(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the top-level packages `names` that came with it."""
        top = {module.split(".")[0] for module in self.new_modules}
        return tuple(sorted(top & set(names)))


def imports_of(
    modules: Sequence[str], probe: str = "", env: Mapping[str, str] | None = None
) -> dict[str, Imported]:
    """Import `modules`, one after the other, in one fresh interpreter; what each did.

    `probe`: "module:attribute" of a platform class in one of them, whose probe is called last; what
    that did is told under "probe". `env`: the environment to start from, this process's own if not
    given. Raises RuntimeError when the interpreter dies.
    """
    env = os.environ if env is None else env
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(list(modules)), probe],
        env={**env, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"importing {modules} ended the interpreter: {done.stderr[-2000:]}")
    answers = json.loads(done.stdout.splitlines()[-1])
    return {
        name: Imported(
            tuple(answer["new_modules"]),
            tuple(answer["changes"]),
            answer["printed"],
            answer["seconds"],
            answer["error"],
        )
        for name, answer in answers.items()
    }
