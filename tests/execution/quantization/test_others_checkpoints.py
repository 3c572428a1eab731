"""Checkpoints written by others' tools agree with those tools, within the kit's limits.

They take minutes and an environment of several gigabytes to make, so they are made apart:
tests/assets/quantization/make_checkpoints.py writes them, INFERPLANE_QUANTIZED names the folder.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

VARIABLE = "INFERPLANE_QUANTIZED"
COMPARE = Path(__file__).resolve().parents[2] / "assets" / "quantization" / "compare.py"


@pytest.fixture(scope="module")
def comparing() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("compare_quantized", COMPARE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # where dataclasses look for their module
        spec.loader.exec_module(module)
        yield module


def test_they_agree_with_the_tool_that_wrote_them(comparing: ModuleType) -> None:
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"{VARIABLE} names no folder of make_checkpoints.py")
    folders = list(comparing.checkpoints(Path(named)))
    assert folders, f"{named} holds no checkpoint with a reference.json"
    found = {f.name: comparing.compare(f, device="cpu", dtype="float32").fault for f in folders}
    assert {name: fault for name, fault in found.items() if fault} == {}


def test_a_comparison_beyond_its_limits_says_which(comparing: ModuleType) -> None:
    right = comparing.Comparison("a", 0.01, 0.99, 20.1, 20.0, 0.001, 1.0, {})
    assert right.fault == ""
    wrong = comparing.Comparison("a", 0.2, 0.9, 21.0, 20.0, 0.001, 1.0, {})
    assert wrong.fault == (
        "mean delta 0.2000 > 0.1500, same best 0.900 < 0.970, perplexity off by 5.00% > 1%"
    )
    restless = comparing.Comparison("a", 0.2, 0.9, 20.18, 20.0, 0.11, 0.94, {})
    assert restless.fault == ""
