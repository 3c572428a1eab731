"""What the machine gives during a run: bandwidth at a footprint, arithmetic of bf16 and int8.

Every figure is read against the probe taken beside it, never against a nominal value.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Prober", "Reading"]

_SOURCE = Path(__file__).with_name("probe.c")


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes and operations a second."""

    bytes_per_s: float
    bf16_per_s: float
    int8_per_s: float

    def operations_per_s(self, weights: str) -> float:
        """The arithmetic that serves these weights: bf16, int8 or int4."""
        return self.bf16_per_s if weights == "bf16" else self.int8_per_s


class Prober:
    """Compiles probe.c once and runs it."""

    def __init__(self, folder: Path, threads: int, gemm_python: str) -> None:
        """`gemm_python`: an interpreter with torch, whose matrix product may beat the vectors.

        Raises SystemExit where there is no C compiler.
        """
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise SystemExit("the probe needs a C compiler: install gcc or clang")
        self._binary = folder / "probe"
        self._threads = threads
        command = [compiler, "-O3", "-march=native", "-pthread", str(_SOURCE)]
        subprocess.run([*command, "-o", str(self._binary)], check=True)
        self._gemm = _gemm_per_s(gemm_python, threads)

    def read(self, footprint_bytes: int) -> Reading:
        """Now, with the weights of a step as footprint."""
        mib = str(max(footprint_bytes >> 20, 1))
        told = subprocess.run(
            [str(self._binary), str(self._threads), mib], check=True, capture_output=True, text=True
        )
        found = json.loads(told.stdout)
        return Reading(
            found["read_gb_per_s"][mib] * 1e9,
            max(found["bf16_gflops"] * 1e9, self._gemm),
            max(found["int8_gops"] * 1e9, self._gemm),
        )


def _gemm_per_s(python: str, threads: int) -> float:
    """torch's product of 2048 cubed, best of ten, in operations a second: of bf16, or of float32
    where the processor has no product of bf16 and kernels widen it.
    """
    code = (
        "import time, torch\n"
        f"torch.set_num_threads({threads})\n"
        "has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()\n"
        "kind = torch.bfloat16 if has_bf16 else torch.float32\n"
        "a, b = (torch.randn(2048, 2048).to(kind) for _ in range(2))\n"
        "best = 9e9\n"
        "for _ in range(10):\n"
        "    t = time.perf_counter(); a @ b; best = min(best, time.perf_counter() - t)\n"
        "print(2 * 2048**3 / best)\n"
    )
    told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return float(told.stdout)
