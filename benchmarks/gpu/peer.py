"""A peer on the same card and the same work, in an environment of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from session import model_folder
from shapes import Shape
from workloads import Sizes, workloads

__all__ = ["run_peer"]

_DRIVERS = {"vllm": "vllm_driver.py"}


def run_peer(
    args: argparse.Namespace,
    peer: str,
    name: str,
    shape_and_sizes: tuple[Shape, Sizes],
    wanted: set[str] | None,
) -> dict[str, Any]:
    """{"version", "start_s", "runs"} of `vllm=PYTHON`; "error" instead where it failed.

    Raises SystemExit for a peer that nobody wrote a driver for.
    """
    kind, _, python = peer.partition("=")
    if kind not in _DRIVERS or not python:
        accepted = " or ".join(f"{name}=PYTHON" for name in _DRIVERS)
        raise SystemExit(f"--peer {peer!r}: it takes {accepted}")
    shape, sizes = shape_and_sizes
    with tempfile.TemporaryDirectory() as root:
        folder = model_folder(Path(root), name, shape.config())
        work = [
            {"kind": one.kind, "prompts": one.prompts, "outputs": one.outputs}
            for one in workloads(shape.vocab, sizes)
            if wanted is None or one.kind in wanted or not one.kind
        ]
        task = {
            "model": str(folder),
            "device": args.device,
            "max_model_len": 512 if args.tiny else 16384,
            "max_num_seqs": 16 if args.tiny else 256,
            "max_batched_tokens": 256 if args.tiny else args.step_tokens,
            "workloads": work,
        }
        done = subprocess.run(
            [python, str(Path(__file__).parent / _DRIVERS[kind])],
            input=json.dumps(task),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        print(f"-- {kind} failed: {last[0]}", flush=True)
        return {"version": kind, "start_s": 0.0, "runs": [], "error": last[0]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"   {found['version']}: start {found['start_s']:.1f} s", flush=True)
    for run in found["runs"]:
        print(f"   {run['kind']:14} {run['seconds']:9.4f} s", flush=True)
    return found
