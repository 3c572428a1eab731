"""NVIDIA's software as Python sees it. The only module that imports `pynvml` (nvidia-ml-py).

NVML reads the driver without creating a context on any device, so the planner may use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from inferplane.probing import Requirement, read_text

__all__ = ["Gpu", "Machine", "cuda_of_torch", "problem", "read_machine", "versions"]

TORCH = Requirement("torch", "2.9", "torch", "PyPI: pip install 'inferplane[cuda]' torch")
TRITON = Requirement("triton", "3.5", "triton", "PyPI, with torch's CUDA build")
NVML = Requirement("nvidia-ml-py", "12", "pynvml", "PyPI: pip install nvidia-ml-py")


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
    """Ask NVML; whatever goes wrong is an answer."""
    if missing := NVML.problem():
        return Machine(problem=missing)
    nvml: Any = import_module("pynvml")  # here: nothing else of this plugin needs it
    try:
        nvml.nvmlInit()
    except Exception as error:
        return Machine(problem=f"no NVIDIA driver found: {error}")
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        count = nvml.nvmlDeviceGetCount()
        gpus = tuple(_read_gpu(nvml, index) for index in range(count))
    except Exception as error:
        return Machine(problem=f"the NVIDIA driver answers with an error: {error}")
    finally:
        nvml.nvmlShutdown()
    return Machine(gpus, driver, "" if gpus else f"driver {driver} reports no GPU")


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


def _read_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(str(nvml.nvmlDeviceGetName(handle)), int(major), int(minor), int(memory.total))
