"""Compile `csrc/` into the wheel, once an instruction set; without g++ the wheel is pure Python.

The library has a plain C interface, so it is tied to no Python version and to no torch version.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("api.cpp", "program.cpp")
VARIANTS = {
    "avx512": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mfma -mf16c",
    "avx2": "-mavx2 -mfma -mf16c",
}


class NativeBuild(BuildHookInterface[Any]):
    """Builds the kernel libraries beside the Python files that load them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a missing compiler or another processor family is reported, not an error."""
        compiler = shutil.which("g++") or shutil.which("clang++")
        if self.target_name != "wheel":
            return
        if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
            self.app.display_warning("no C++ compiler for x86-64: kernels run per op in torch")
            return
        root = Path(self.root)
        built = [self._compile(compiler, root, name, flags) for name, flags in VARIANTS.items()]
        build_data["artifacts"] += [str(path.relative_to(root)) for path in built if path]
        if any(built):
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + _platform_tag()

    def _compile(self, compiler: str, root: Path, name: str, flags: str) -> Path | None:
        target = root / "inferplane_cpu" / "native" / f"libinferplane_cpu_{name}.so"
        sources = [str(root / "csrc" / source) for source in SOURCES]
        command = [
            compiler,
            "-std=c++17",
            "-O3",
            "-fno-strict-aliasing",
            *flags.split(),
            "-shared",
            "-fPIC",
            "-pthread",
        ]
        done = subprocess.run(
            [*command, "-o", str(target), *sources], capture_output=True, text=True, check=False
        )
        if done.returncode:
            self.app.display_warning(f"{target.name} not built: {done.stderr[-2000:]}")
            return None
        return target


def _platform_tag() -> str:
    from sysconfig import get_platform  # as pip computes it for a locally built wheel

    return get_platform().replace("-", "_").replace(".", "_")
