"""The one-GPU benchmark's own laws: what a peer is asked, and what is compared with what."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "gpu"
STAND_IN = '''
"""A peer that answers with as many tokens as it is asked for."""
import os
from types import SimpleNamespace

__version__ = "0.0-stand-in"


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, model, **settings):
        print("noise on stdout")
        assert os.path.exists(os.path.join(model, "config.json"))
        assert settings["load_format"] == "dummy" and settings["dtype"] == "bfloat16"
        assert settings["enable_prefix_caching"]

    def generate(self, prompts, params, use_tqdm):
        short = int(os.environ.get("STAND_IN_SHORT", "0"))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0] * (one.max_tokens - short))])
            for one in params
        ]
'''


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("peer", "report", "session", "shapes", "workloads"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import peer
    import report
    import shapes
    import workloads

    return argparse.Namespace(peer=peer, report=report, shapes=shapes, workloads=workloads)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def asked(bench: Any, peer: str, wanted: set[str] | None) -> dict[str, Any]:
    args = argparse.Namespace(device="cpu", tiny=True, step_tokens=256)
    shape = bench.shapes.SHAPES["qwen3-0.6b"]
    found: dict[str, Any] = bench.peer.run_peer(
        args, peer, "qwen3-0.6b", (shape, bench.workloads.TINY), wanted
    )
    return found


@pytest.mark.usefixtures("stand_in")
def test_a_peer_runs_the_workloads_that_were_asked_for(bench: Any) -> None:
    found = asked(bench, f"vllm={sys.executable}", {"mixed", "prefix"})
    assert found["version"] == "vLLM 0.0-stand-in" and found["start_s"] >= 0
    assert [run["kind"] for run in found["runs"]] == ["mixed", "prefix"]
    everything = asked(bench, f"vllm={sys.executable}", None)
    kinds = ["batch 1", "batch 1", "first token", "first token", "mixed", "fixed", "prefill"]
    assert [run["kind"] for run in everything["runs"]] == [*kinds, "prefix"]


@pytest.mark.usefixtures("stand_in")
def test_a_peer_that_gives_other_lengths_is_not_compared(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SHORT", "1")
    found = asked(bench, f"vllm={sys.executable}", {"mixed"})
    assert found["runs"] == [] and "asked for" in found["error"]


def test_a_peer_without_a_driver_is_refused(bench: Any) -> None:
    with pytest.raises(SystemExit, match="vllm=PYTHON"):
        asked(bench, "other=python", None)


def test_ratios_are_with_the_unquantised_model_and_the_peer_of_the_same_run(bench: Any) -> None:
    def model(seconds: float) -> dict[str, Any]:
        run = {
            "kind": "batch 1", "seconds": seconds, "tokens_in": 8, "tokens_out": 16,
            "floor_s": 0.5, "baseline_s": None, "goal": None,
        }  # fmt: skip
        return {"phases": {}, "runs": [run]}

    plain = model(2.0)
    plain["peer"] = {"version": "vLLM 1", "runs": [{"kind": "batch 1", "seconds": 3.0}]}
    lines = bench.report.table({"models": {"m": plain, "m:fp8": model(1.25)}}).splitlines()
    rows = [line for line in lines if line.startswith("| batch 1")]
    assert rows[0].endswith("| 1.50x vLLM 1 |") and rows[1].endswith("| 1.60x our bfloat16 |")
