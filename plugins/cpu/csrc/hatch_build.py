"""Compile `csrc/` into the wheel, once an instruction set; without g++ the wheel is pure Python.

The library has a plain C interface, so it is tied to no Python version and to no torch version.
`variants.toml` says what is compiled.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


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
        chosen = tomllib.loads((root / "csrc" / "variants.toml").read_text())
        with ThreadPoolExecutor() as side_by_side:
            names = chosen["variants"]
            built = list(side_by_side.map(lambda name: self._build(compiler, chosen, name), names))
        build_data["artifacts"] += [str(path.relative_to(root)) for path in built if path]
        if any(built):
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + _platform_tag()

    def _build(self, compiler: str, chosen: dict[str, Any], name: str) -> Path | None:
        """One variant; with kernels for tiles where it has them and the compiler knows them."""
        flags, sources, tiles = chosen["variants"][name], chosen["sources"], chosen["tiles"]
        if name in tiles["variants"]:
            more = [*flags, *tiles["flags"]], [*sources, *tiles["sources"]]
            target = self._compile(compiler, name, chosen["options"], *more)
            if target is not None:
                return target
            self.app.display_warning(f"{name}: built without kernels for AMX tiles")
        return self._compile(compiler, name, chosen["options"], flags, sources)

    def _compile(
        self, compiler: str, name: str, options: list[str], flags: list[str], sources: list[str]
    ) -> Path | None:
        csrc = Path(self.root) / "csrc"
        target = Path(self.root) / "inferplane_cpu" / "native" / f"libinferplane_cpu_{name}.so"
        fresh = target.with_suffix(f".{os.getpid()}")
        files = [str(csrc / source) for source in sources]
        command = [compiler, *options, *flags, "-o", str(fresh), *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"{target.name} not built: {done.stderr[-2000:]}")
            return None
        fresh.replace(target)  # a process that runs the old one keeps it
        return target


def _platform_tag() -> str:
    from sysconfig import get_platform  # as pip computes it for a locally built wheel

    return get_platform().replace("-", "_").replace(".", "_")
