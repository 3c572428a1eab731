"""FlashInfer's compiled modules: which a kind of attention needs, whether they lie on disk, and the
command that compiles them, half a minute each, where no request waits.

python -m inferplane_cuda.attention.flashinfer_modules --head-dim 128 [--dtype bfloat16]
    [--windowed] [--capped]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from inferplane.probing import Requirement

__all__ = ["Modules", "main", "package_problem"]

PACKAGE = Requirement(
    "flashinfer-python", "0.6.12", "flashinfer", "PyPI: pip install 'inferplane-cuda[flashinfer]'"
)
_SERIES = "0.6."
_NAMES = {"bfloat16": "bf16", "float16": "f16"}


def package_problem() -> str:
    """Why FlashInfer cannot be used, with the next step; "" = it looks right. Imports nothing."""
    if missing := PACKAGE.problem():
        return missing
    if not PACKAGE.version().startswith(_SERIES):
        return (
            f"flashinfer-python {PACKAGE.version()} is installed, {_SERIES}x from "
            f"{PACKAGE.floor} is served: {PACKAGE.source}"
        )
    return ""


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of one kind of attention; all heads of one size share them."""

    dtype: str
    head_dim: int
    windowed: bool
    capped: bool

    def name(self, backend: str) -> str:
        """FlashInfer's own name of the module, as its 0.6 series makes it."""
        kind = _NAMES[self.dtype]
        return (
            f"batch_prefill_with_kv_cache_dtype_q_{kind}_dtype_kv_{kind}_dtype_o_{kind}_"
            f"dtype_idx_i32_head_dim_qk_{self.head_dim}_head_dim_vo_{self.head_dim}_posenc_0_"
            f"use_swa_{self.windowed}_use_logits_cap_{self.capped}_f16qk_False"
            + ("_sm90" if backend == "fa3" else "")
        )

    def is_compiled(self, backend: str) -> bool:
        """Whether this version of the package has compiled it here, for whatever device."""
        root = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE", str(Path.home())))
        name = self.name(backend)
        folder = root / ".cache" / "flashinfer" / PACKAGE.version()
        return any(folder.glob(f"*/cached_ops/{name}/{name}.so"))

    def problem(self) -> str:
        """Why it is not ready, with the command that makes it so; "" = ready."""
        if self.is_compiled("fa2"):
            return ""
        options = f"--head-dim {self.head_dim} --dtype {self.dtype}"
        options += " --windowed" * self.windowed + " --capped" * self.capped
        return (
            f"its kernels for these heads are not compiled yet: run python -m {__name__} {options}"
        )

    def compile(self, backend: str) -> None:
        """Build it, which imports torch and FlashInfer and needs nvcc and ninja."""
        torch: Any = import_module("torch")
        made: Any = import_module("flashinfer.jit.attention").gen_batch_prefill_module(
            backend,
            *[getattr(torch, self.dtype)] * 3,
            torch.int32,
            self.head_dim,
            self.head_dim,
            0,
            self.windowed,
            self.capped,
            False,
        )
        made.build_and_load()


def main(arguments: Sequence[str]) -> int:
    """Compile what decodes and prompts need on this machine's device; prints the seconds."""
    parser = argparse.ArgumentParser(description="Compile FlashInfer's attention for one kind.")
    parser.add_argument("--head-dim", type=int, required=True)
    parser.add_argument("--dtype", choices=sorted(_NAMES), default="bfloat16")
    parser.add_argument("--windowed", action="store_true")
    parser.add_argument("--capped", action="store_true")
    asked = parser.parse_args(arguments)
    if problem := package_problem():
        print(problem)
        return 1
    modules = Modules(asked.dtype, asked.head_dim, asked.windowed, asked.capped)
    torch: Any = import_module("torch")
    hopper = torch.cuda.get_device_capability()[0] == 9
    for backend in ("fa2", "fa3") if hopper else ("fa2",):
        began = time.perf_counter()
        modules.compile(backend)
        print(f"{modules.name(backend)}: {time.perf_counter() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
