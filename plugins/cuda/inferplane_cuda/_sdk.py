"""NVIDIA's software as Python sees it, told without importing any of it.

The driver is asked by a short-lived process of its own, `_nvml`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from inferplane.probing import Requirement, read_text

__all__ = ["Gpu", "Machine", "cuda_of_torch", "problem", "read_machine", "versions"]

TORCH = Requirement("torch", "2.9", "torch", "PyPI: pip install 'inferplane[cuda]' torch")
TRITON = Requirement("triton", "3.5", "triton", "PyPI, with torch's CUDA build")
BINDINGS = Requirement("cuda-bindings", "12.9", "cuda", "PyPI: pip install cuda-bindings")
NVML = Requirement("nvidia-ml-py", "12", "pynvml", "PyPI: pip install nvidia-ml-py")


_ANSWER_S = 3.0
"""A healthy driver answers in a tenth of a second."""
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from inferplane_cuda._nvml import read; print(json.dumps(read()))"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device as the driver names it."""

    name: str
    major: int
    minor: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What the driver says; `problem` explains an empty list."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    problem: str = ""


def read_machine() -> Machine:
    """Ask the driver; whatever goes wrong is an answer."""
    if missing := NVML.problem():
        return Machine(problem=missing)
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Machine(problem=f"the NVIDIA driver does not answer: {error}")
    try:
        told = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return Machine(problem=f"asking the NVIDIA driver failed: {last[0]}")
    gpus = tuple(Gpu(*facts) for facts in told.get("gpus", ()))
    return Machine(gpus, told.get("driver", ""), told["problem"])


def problem() -> str:
    """Why torch or Triton cannot be used, with the next step; "" = they look right."""
    missing = TORCH.problem()
    if missing:
        return missing
    if not cuda_of_torch():
        return (
            f"torch {TORCH.version()} is not a CUDA build (its version.py names no CUDA): "
            "install PyPI's Linux wheel, which is one"
        )
    return TRITON.problem()


def cuda_of_torch() -> str:
    """The CUDA release the installed torch was built with, "" for any other build.

    Read from the text of `torch/version.py`: importing torch costs seconds and 200 MB.
    """
    try:
        path = metadata.distribution("torch").locate_file("torch/version.py")
    except metadata.PackageNotFoundError:
        return ""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"](.+?)['\"]", read_text(Path(str(path))), re.M)
    return match.group(1) if match else ""


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    found = {"cuda": cuda_of_torch()}
    for name in ("torch", "triton", "nvidia-ml-py", "flashinfer-python", "flash-attn-4"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {name: version for name, version in found.items() if version}
