"""The table people read: each workload beside the limit, the baseline, floor and goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            "| workload | seconds | rate | of limit | vLLM 0.24.0 | ours / vLLM | floor | goal | "
            "beside it |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        kinds = dict.fromkeys(run["kind"] for run in model["runs"] if run["kind"])
        for kind in kinds:
            runs = [run for run in model["runs"] if run["kind"] == kind]
            best = min(runs, key=lambda run: run["seconds"])
            lines.append(_row(best) + f" {_beside(report, name, best)} |")
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
    if "token_s" in run:
        rate += f", {run['token_s'] * 1e3:.3f} ms a token after the first"
    ratio = f"{baseline / seconds:.2f}x" if baseline else "–"
    return (
        f"| {kind} | {seconds:.4f} | {rate} | {run['floor_s'] / seconds:.0%} | "
        f"{baseline or '–'} s | {ratio} | {goal[0]} | {goal[1]} |"
    )


def _beside(report: Mapping[str, Any], name: str, run: Mapping[str, Any]) -> str:
    """How many times faster than the same work in this run: the unquantised model, or a peer."""
    plain, _, variant = name.partition(":")
    said = []
    if variant and plain in report["models"]:
        runs = report["models"][plain]["runs"]
        said.append((_best(runs, run) / run["seconds"], "our bfloat16"))
        if "token_s" in run:
            said.append((_best(runs, run, "token_s") / run["token_s"], "a token after the first"))
    peer = report["models"][name].get("peer")
    if peer:
        said.append((_best(peer["runs"], run) / run["seconds"], peer["version"]))
    return ", ".join(f"{ratio:.2f}x {what}" for ratio, what in said if ratio) or "–"


def _best(
    runs: Sequence[Mapping[str, Any]], like: Mapping[str, Any], what: str = "seconds"
) -> float:
    """The least of a number of runs of the same kind; 0 = there was none."""
    return min((run[what] for run in runs if run["kind"] == like["kind"]), default=0.0)
