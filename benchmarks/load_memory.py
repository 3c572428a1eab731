"""Peak memory of loading a model as it is stored and quantised on the way, one process each.

python benchmarks/load_memory.py MODEL [--quantization KIND …]

The peak is the process's own (VmHWM); what it held before the model is taken off. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

KINDS = ("auto", "int8", "int4")


def main() -> None:
    """A line of a table for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--quantization", nargs="*", default=KINDS)
    parser.add_argument("--here", action="store_true", help="in this process; one kind")
    chosen = parser.parse_args()
    if chosen.here:
        print(_measured(chosen.model, chosen.quantization[0]))
        return
    print("| weights | peak beyond what was there, MiB | afterwards, MiB |\n|---|---|---|")
    for kind in chosen.quantization:
        command = [sys.executable, __file__, chosen.model, "--here", "--quantization", kind]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"| {kind} | {done.stdout.splitlines()[-1]} |", flush=True)


def _measured(model: str, kind: str) -> str:
    """ "PEAK | AFTERWARDS" in MiB: of the weights alone, without KV, programs and libraries."""
    from inferplane.testing.tiny import write_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        small = _load(str(write_tiny_model(Path(folder))), kind)  # brings the libraries in
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        large = _load(model, kind)
        peak, after = _memory("VmHWM"), _memory("VmRSS")
        for executor in (small, large):
            executor.close()
    return f"{peak - before:.0f} | {after - before:.0f}"


def _load(model: str, kind: str) -> Any:
    """An executor with its weights in place."""
    from inferplane.catalogue import resolve_model
    from inferplane.config import ModelSettings, current_environment, launch_settings
    from inferplane.engine.placement import make_executor
    from inferplane.planner import run_planner

    asked = ModelSettings(model=model, device="cpu", quantization=kind, max_model_len=64)
    plan = run_planner(launch_settings(asked, resolve_model(model)))
    inline = replace(plan, topology=replace(plan.topology, placement="inline"))
    executor = make_executor(inline, current_environment())
    executor.load(lambda stage, done, total, name: None)
    return executor


def _memory(which: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {which}")


if __name__ == "__main__":
    main()
