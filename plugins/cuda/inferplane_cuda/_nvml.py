"""What the driver says through NVML, as JSON on stdout: run in a process of its own.

NVML keeps descriptors open after its shutdown, and a driver may hang or crash; here neither reaches
whoever asked. The only module that imports `pynvml` (nvidia-ml-py). No context is created.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

__all__ = ["read"]


def read() -> dict[str, Any]:
    """driver, gpus as [name, major, minor, bytes], and problem ("" = none)."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
    except Exception as error:
        return {"problem": f"no NVIDIA driver found: {error}"}
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        gpus = [_read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except Exception as error:
        return {"problem": f"the NVIDIA driver answers with an error: {error}"}
    problem = "" if gpus else f"driver {driver} reports no GPU"
    return {"driver": driver, "gpus": gpus, "problem": problem}


def _read_gpu(nvml: Any, index: int) -> list[Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    total = nvml.nvmlDeviceGetMemoryInfo(handle).total
    return [str(nvml.nvmlDeviceGetName(handle)), int(major), int(minor), int(total)]


if __name__ == "__main__":
    print(json.dumps(read()))
