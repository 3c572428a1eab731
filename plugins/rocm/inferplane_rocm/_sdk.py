"""The ROCm software stack as Python sees it: what must be installed, told without importing it.

torch is never imported to find out: the text of its `version.py` tells which build it is.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from inferplane.probing import Requirement, read_text

__all__ = ["AITER", "problem", "versions"]

TORCH = Requirement("torch", "2.9", "torch", "PyTorch's or AMD's index of ROCm builds")
TRITON = Requirement("triton", "3.5", "triton", "PyPI, or AMD's index with its torch build")

AITER = Requirement(
    "amd-aiter", "0.1.7", "aiter", "AMD's repository, built for the installed torch"
)


def problem() -> str:
    """Why the stack cannot be used, with the next step; "" = it looks right."""
    missing = TORCH.problem()
    if missing:
        return missing
    if not hip_version():
        return (
            f"torch {TORCH.version()} is not a ROCm build (its version.py names no HIP): "
            f"{TORCH.floor} or newer comes from {TORCH.source}"
        )
    if any(_installed(name) for name in ("pytorch-triton-rocm", "triton-rocm")):
        return ""  # a ROCm torch may bring Triton under its own name
    return TRITON.problem()


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    found = {name: _installed(name) for name in ("torch", "triton", "amd-aiter")}
    found["hip"] = hip_version()
    return {name: version for name, version in found.items() if version}


def hip_version() -> str:
    """The HIP release the installed torch was built with, "" for any other build.

    Read from the text of `torch/version.py`: importing torch costs seconds and 200 MB.
    """
    try:
        path = metadata.distribution("torch").locate_file("torch/version.py")
    except metadata.PackageNotFoundError:
        return ""
    match = re.search(r"^hip\b[^=\n]*=\s*['\"](.+?)['\"]", read_text(Path(str(path))), re.M)
    return match.group(1) if match else ""


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
