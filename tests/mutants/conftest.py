"""Runs the kit on a plugin that stands in a folder, inside this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `zoo`; tests have no packages


@dataclass(frozen=True)
class Verdict:
    """What the kit said."""

    badge: str
    failed: dict[int, list[str]]
    """Level -> tests that failed there."""
    passed: dict[int, int]
    """Level -> how many passed."""


@pytest.fixture
def run_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str, int], Verdict]:
    """`run_kit(folder, device, level)`: levels 0 to `level` of the kit, quickly."""

    def run(folder: Path, device: str, level: int) -> Verdict:
        monkeypatch.syspath_prepend(str(folder))
        environment = {**os.environ, "PYTHONPATH": str(folder)}  # children find it there
        monkeypatch.setattr(os, "environ", environment)  # a mutant may write to it
        report = tmp_path / "report.json"
        pytest.main(
            [
                "--pyargs",
                "inferplane.testing.conformance",
                f"--rootdir={folder}",
                f"--config-file={folder / 'pyproject.toml'}",
                f"--basetemp={tmp_path / 'kit'}",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:asyncio",
                "-q",
                "--no-header",
                f"--inferplane-device={device}",
                f"--inferplane-plugins=inferplane_{device}.plugin",
                f"--inferplane-level={level}",
                f"--inferplane-report={report}",
                "--inferplane-quick",
            ]
        )
        content = json.loads(report.read_text())
        failed: dict[int, list[str]] = {}
        passed: dict[int, int] = {}
        for test in content["tests"]:
            if test["outcome"] == "failed":
                failed.setdefault(test["level"], []).append(f"{test['test']}: {test['reason']}")
            elif test["outcome"] == "passed":
                passed[test["level"]] = passed.get(test["level"], 0) + 1
        return Verdict(content["badge"], failed, passed)

    return run
