"""The one-GPU workloads of docs/performance.md, ours against the recorded vLLM 0.24.0 baseline.

python benchmarks/gpu/run.py [--models qwen3-0.6b] [--only "batch 1,mixed"] [--json FILE]
python benchmarks/gpu/run.py --models llama-3.1-8b,llama-3.1-8b:fp8,llama-3.1-8b:int4   # and ratios
python benchmarks/gpu/run.py --models llama-3.1-8b,llama-3.1-8b:kv-fp8,llama-3.1-8b:fp8:kv-int8
python benchmarks/gpu/run.py --peer vllm=PYTHON                       # vLLM beside it, same card
python benchmarks/gpu/run.py --device cpu --tiny            # a dry run without a GPU
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from report import phase_lines, table
from shapes import BASELINE_S, GOALS, SHAPES, VARIANTS, Shape, serial_floor_s
from workloads import FULL, TINY, Workload, check_sums, workloads

STARTED = time.perf_counter()
CARD_PARTS = {
    "kernels": ("kernels", "time_kernels"),
    "quantized": ("quantized_kernels", "time_quantized"),
    "sampling": ("drawing", "time_drawing"),
    "flashinfer": ("flashinfer_rows", "compare_flashinfer"),
}
"""Part -> module, imported only when asked for, and what it takes the seconds left."""
PARTS = ("probe", "numerics", *CARD_PARTS, "profile")
"""What `--only` may name besides the workloads."""
KV = "kv-"


def main() -> int:
    """Run what was asked for within the budget, print the table, write the JSON."""
    args = arguments()
    wanted = set(args.only.split(",")) if args.only else None
    report: dict[str, Any] = {"arguments": vars(args), "models": {}}
    try:
        run_parts(args, wanted, report)
    finally:
        report["seconds"] = time.perf_counter() - STARTED
        if args.json:
            Path(args.json).write_text(json.dumps(report, indent=1, default=str))
        print(table(report), flush=True)
    return 0


def run_parts(args: argparse.Namespace, wanted: set[str] | None, report: dict[str, Any]) -> None:
    """Each part adds to `report` as it ends, so that a late failure loses nothing."""
    on_gpu = args.device != "cpu"

    def asked(part: str, by_default: bool = True) -> bool:
        return part in wanted if wanted is not None else by_default

    models = args.models.split(",")
    workload_kinds = wanted - set(PARTS) if wanted is not None else None
    if workload_kinds is None or workload_kinds or asked("profile", False):
        for name in models:
            if left(args) < args.reserve_s:
                print(f"-- {name} left out: {left(args):.0f} s of the budget left", flush=True)
                continue
            report["models"][name] = run_model(args, name, wanted)
    for peer in args.peer:
        from peer import run_peer  # only when asked

        for name in (name for name in models if ":" not in name):
            report["models"][name]["peer"] = run_peer(
                args, peer, name, shape_of(args, name), wanted
            )
    if asked("probe") and on_gpu:
        from probes import probe_ceilings  # torch is loaded after the timed start

        report["probe"] = probe_ceilings()
        print(f"probe {report['probe']}", flush=True)
    if asked("numerics"):
        from numerics import check_numerics  # likewise

        report["numerics"] = check_numerics(args.device, plugins_of(args), args.tiny, args.gguf)
    for part, (module, function) in CARD_PARTS.items():
        if asked(part, False) and on_gpu:
            report[part] = getattr(import_module(module), function)(left(args) - 20)


def run_model(args: argparse.Namespace, name: str, wanted: set[str] | None) -> dict[str, Any]:
    """Start one engine, run the workloads, close it."""
    from session import Session, model_folder  # what it imports belongs to the timed start

    shape, sizes = shape_of(args, name)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        folder = model_folder(Path(root), name.replace(":", "-"), config_of(name, shape))
        session = Session(engine_config(args, folder, kv_dtype_of(name)), plugins_of(args))
        session.generate([[7] * 8], [1])
        first = time.perf_counter() - began
        session.settle()
        found: dict[str, Any] = {
            "phases": {**session.phases, "first token": first, "process so far": uptime()},
            "weight_bytes": session.weight_bytes,
            "runs": [],
        }
        print(f"== {name}: {phase_lines(found['phases'])}", flush=True)
        print(f"   {json.dumps(session.facts())}", flush=True)
        for work in workloads(shape.vocab, sizes):
            if work.kind == "mixed" and not args.tiny:
                check_sums(shape.vocab, work)
            if left(args) < args.reserve_s:
                print(f"-- the rest of {name} left out: the budget is used up", flush=True)
                break
            if skipped(work, wanted):
                continue
            found["runs"].append(run_work(session, shape, name, work))
        if wanted is not None and "profile" in wanted and args.device != "cpu":
            from profiles import profile_steps  # only when asked

            found["profile"] = profile_steps(session, shape.vocab, args.trace)
        found["facts"] = session.facts()
        session.close()
    return found


def run_work(session: Any, shape: Shape, name: str, work: Workload) -> dict[str, Any]:
    """One workload, timed as the baseline was: the whole call on the host's clock."""
    seconds, _ = session.generate(work.prompts, work.outputs)
    limit = serial_floor_s(
        shape, list(map(len, work.prompts)), work.outputs, work.cached, 4.29e12, 803e12
    )
    is_full = shape == SHAPES.get(name)
    run = {
        "kind": work.kind,
        "seconds": seconds,
        "tokens_in": work.tokens_in,
        "tokens_out": work.tokens_out,
        "floor_s": limit,
        "baseline_s": BASELINE_S.get(name, {}).get(work.kind) if is_full else None,
        "goal": GOALS.get(name, {}).get(work.kind) if is_full else None,
    }
    if len(work.prompts) == 1 and work.tokens_out > 1:
        run["token_s"] = (seconds - session.first_s) / (work.tokens_out - 1)
    label = work.kind or "(not reported)"
    print(
        f"   {label:14} {seconds:9.4f} s  {work.tokens_out / seconds:10.1f} out tok/s", flush=True
    )
    return run


def skipped(work: Workload, wanted: set[str] | None) -> bool:
    """Unreported workloads warm up what follows them, so the prefix one needs its own."""
    if wanted is None or work.kind in wanted:
        return False
    return bool(work.kind) or (len(work.prompts) == 1 and "prefix" not in wanted)


def shape_of(args: argparse.Namespace, name: str) -> tuple[Shape, Any]:
    """Full size, or a model and workloads that a processor runs in seconds."""
    shape = SHAPES[name.partition(":")[0]]
    if not args.tiny:
        return shape, FULL
    tiny = replace(
        shape, layers=2, hidden=128, heads=8, kv_heads=4, head_dim=16, intermediate=256, vocab=512,
        experts=min(shape.experts, 8), active=min(shape.active, 2),
    )  # fmt: skip
    return tiny, TINY


def config_of(name: str, shape: Shape) -> dict[str, object]:
    """The config.json of `MODEL[:VARIANT]`. Raises SystemExit for an unknown variant."""
    variants = [part for part in name.split(":")[1:] if not part.startswith(KV)]
    if not variants:
        return shape.config()
    if len(variants) > 1 or variants[0] not in VARIANTS:
        raise SystemExit(f"no variant {':'.join(variants)!r}; there are {', '.join(VARIANTS)}")
    return {**shape.config(), "quantization_config": VARIANTS[variants[0]]}


def kv_dtype_of(name: str) -> str:
    """What the cache is kept in: `MODEL[:VARIANT]:kv-fp8` names it."""
    kinds = [part.removeprefix(KV) for part in name.split(":")[1:] if part.startswith(KV)]
    return kinds[0] if kinds else "auto"


def engine_config(args: argparse.Namespace, folder: Path, kv_dtype: str) -> Any:
    """The baseline's settings: 16384 tokens a request, 85 % of the memory, prefix cache on."""
    from inferplane.interfaces import EngineConfig

    options = dict(pair.split("=", 1) for pair in args.option)
    return EngineConfig(
        model=str(folder),
        device=args.device,
        dtype=args.dtype,
        kv_dtype=kv_dtype,
        attention=args.attention,
        tensor_parallel=args.tensor_parallel,
        max_model_len=512 if args.tiny else 16384,
        max_num_seqs=16 if args.tiny else 256,
        max_batched_tokens=256 if args.tiny else args.step_tokens,
        memory_fraction=0.85,
        options=options,
    )


def plugins_of(args: argparse.Namespace) -> tuple[str, ...] | None:
    """Module names, where a machine has the source but no installed metadata."""
    return tuple(args.plugins.split(",")) if args.plugins else None


def left(args: argparse.Namespace) -> float:
    """Seconds of the budget."""
    return float(args.budget_s - (time.perf_counter() - STARTED))


def uptime() -> float:
    """Seconds since this program began."""
    return time.perf_counter() - STARTED


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--models",
        default=",".join(reversed(BASELINE_S)),
        help=f"of {', '.join(SHAPES)}; MODEL:VARIANT for one of {', '.join(VARIANTS)}, and "
        "MODEL[:VARIANT]:kv-fp8 or kv-int8 for the cache",
    )
    parser.add_argument("--only", default="", help=f"workload kinds, or of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a dry run")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="cards one model lies on")
    parser.add_argument("--step-tokens", type=int, default=8192, help="most tokens of one step")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of the device")
    parser.add_argument("--plugins", default="", help="plugin names or modules, comma-separated")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="vllm=PYTHON", help="beside ours, same card"
    )
    parser.add_argument("--gguf", default="", help="a small real model for the agreement check")
    parser.add_argument("--budget-s", type=float, default=540.0)
    parser.add_argument("--reserve-s", type=float, default=30.0, help="stop starting work then")
    parser.add_argument("--json", default="")
    parser.add_argument("--trace", default="", help="folder for profiler traces")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
