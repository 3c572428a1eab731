"""The table people read: each workload beside the limit, the baseline, floor and goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["phase_lines", "table"]


def phase_lines(phases: Mapping[str, float]) -> str:
    """name seconds, in order."""
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())


def table(report: Mapping[str, Any]) -> str:
    """Markdown; the best of repeated runs."""
    lines = []
    for name, model in report["models"].items():
        lines += [
            "",
            f"### {name}: start {phase_lines(model['phases'])}",
            "| workload | seconds | rate | of limit | vLLM 0.24.0 | ours / vLLM | floor | goal |",
            "|---|---|---|---|---|---|---|---|",
        ]
        kinds = dict.fromkeys(run["kind"] for run in model["runs"] if run["kind"])
        for kind in kinds:
            runs = [run for run in model["runs"] if run["kind"] == kind]
            lines.append(_row(min(runs, key=lambda run: run["seconds"])))
    for part in ("probe", "numerics"):
        if part in report:
            lines += ["", f"{part}: {report[part]}"]
    return "\n".join(lines)


def _row(run: Mapping[str, Any]) -> str:
    kind, seconds = run["kind"], run["seconds"]
    baseline, goal = run["baseline_s"], run["goal"] or ("–", "–")
    if kind == "first token":
        rate = f"{seconds * 1e3:.2f} ms"
    elif kind == "prefill":
        rate = f"{run['tokens_in'] / seconds:,.0f} in/s"
    else:
        rate = f"{run['tokens_out'] / seconds:,.1f} tok/s"
    ratio = f"{baseline / seconds:.2f}x" if baseline else "–"
    return (
        f"| {kind} | {seconds:.4f} | {rate} | {run['floor_s'] / seconds:.0%} | "
        f"{baseline or '–'} s | {ratio} | {goal[0]} | {goal[1]} |"
    )
