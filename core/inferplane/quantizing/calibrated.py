"""GPTQ and AWQ through gptqmodel, in a process of its own.

Of its own because the library replaces functions of others on import, and reads the environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from inferplane.config import current_environment
from inferplane.errors import ConfigError, InferplaneError

__all__ = ["METHODS", "check_library", "group_size", "run_gptqmodel"]

METHODS = ("gptq", "awq")
_GROUPS = (128, 64, 32)
_WORKERS = "GPTQMODEL_CPU_WORKERS"
"""It starts two loaders whatever it says itself, and one worker where there are two cores."""


def check_library(method: str) -> None:
    """Raises ConfigError with the command that installs what `method` needs."""
    if find_spec("gptqmodel") is None:
        raise ConfigError(
            f"method {method} needs gptqmodel, which is not installed: pip install "
            "'inferplane[quantize]' (or choose int8, int4 or fp8, which need no calibration)"
        )


def group_size(input_sizes: Sequence[int]) -> int:
    """The largest usual group that divides all layers' inputs. Raises ConfigError for none."""
    for size in _GROUPS:
        if all(inputs % size == 0 for inputs in input_sizes):
            return size
    raise ConfigError(
        f"layers of {', '.join(map(str, sorted(set(input_sizes))))} inputs share no group of "
        f"{', '.join(map(str, _GROUPS))}: use method int8"
    )


def run_gptqmodel(
    source: Path, out: Path, method: str, group: int, samples: Sequence[Sequence[int]]
) -> None:
    """Quantise the folder `source` to 4 bits into `out`, calibrated on `samples` of token ids.

    The library draws its own progress. Raises InferplaneError when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="inferplane-") as scratch:
        task = Path(scratch) / "task.json"
        told = {
            "source": str(source),
            "out": str(out),
            "method": method,
            "group": group,
            "samples": [list(one) for one in samples],
        }
        task.write_text(json.dumps(told))
        command = [sys.executable, "-m", "inferplane.quantizing.gptqmodel_process", str(task)]
        # A child's environment; this process's stays as it is.
        environment = {_WORKERS: "2", **current_environment()}
        done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise InferplaneError(
            f"gptqmodel ended with {done.returncode}: what it printed above says why; method int4 "
            "needs no calibration"
        )
