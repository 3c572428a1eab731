"""The same tests run in Triton's interpreter (test_interpreted.py) and on a GPU.

An interpreted kernel cannot be compiled in the same process, and without a device a compiled one
cannot run, so anywhere else these files are left alone.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RUNS = find_spec("triton") is not None and (INTERPRETED or torch.cuda.is_available())
collect_ignore_glob = [] if RUNS else ["test_*.py"]


@pytest.fixture
def device() -> str:
    """Where tensors live."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
