"""Serving latency, W5: open loop over HTTP, ours and its peers in turns, ratios in one run.

python benchmarks/serving.py --model FOLDER --rates 1,2,4 [--vllm PYTHON] [--transformers PYTHON]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from interleaved import Comparison, Report, in_turns, read_gb_per_s
from offline import arguments_of, systems
from peers import Served, System, alone, free_port, served
from tokenizers import Tokenizer

from inferplane.cli.bench.figures import summarise
from inferplane.cli.bench.load import Body, exact_body, run_open_loop
from inferplane.cli.bench.workloads import Prompt, Workload, online
from inferplane.cli.remote_model import RemoteModel

MAX_MODEL_LEN = 2304


def main() -> None:
    """Read arguments, run every rate, print the table."""
    chosen = arguments()
    contestants = {system.name: system for system in systems(chosen)}
    report = Report({name: system.python for name, system in contestants.items()})
    report.probes_gb_per_s.append(read_gb_per_s())
    with contextlib.ExitStack() as servers:
        running = {
            name: servers.enter_context(start(system, chosen))
            for name, system in contestants.items()
        }
        for rate in (float(text) for text in chosen.rates.split(",")):
            workload = online(chosen.requests, rate, longest=chosen.longest)
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
            timed = {
                name: partial(measure, system, running, chosen, workload, runs[name])
                for name, system in contestants.items()
            }
            goodput = in_turns(timed, chosen.turns, warm_ups=0)
            report.comparisons.append(Comparison(workload.name, "good req/s", goodput))
            report.comparisons += latencies(workload, runs)
        report.probes_gb_per_s.append(read_gb_per_s())
    print(report.text())
    if chosen.output:
        report.write(chosen.output)


def start(system: System, chosen: argparse.Namespace) -> contextlib.AbstractContextManager[Served]:
    """Its server, for the whole run."""
    port = free_port()
    command = system.server_command(str(chosen.model), port, MAX_MODEL_LEN)
    environment = system.environment(chosen.threads)
    if system.kind == "transformers":  # its list of models fails without a cache folder
        environment["HF_HUB_CACHE"] = str(chosen.model.resolve().parent)
    return served(command, environment, port)


def measure(
    system: System,
    running: Mapping[str, Served],
    chosen: argparse.Namespace,
    workload: Workload,
    found: list[dict[str, Any]],
) -> float:
    """One turn, the other servers halted, warmed up by two requests; its goodput."""
    server = running[system.name]
    # transformers lists what is cached, not what it serves
    model = str(chosen.model) if system.kind == "transformers" else ""
    body = body_for(system, chosen)
    with alone(server, running.values()):
        figures = asyncio.run(_measure(server.url, model, body, workload, chosen))
    if figures["failed"]:
        raise SystemExit(f"{system.name}: {figures['failed']} failed: {figures['first_error']}")
    found.append(figures)
    return float(figures["goodput_per_s"])


async def _measure(
    url: str, model: str, body: Body, workload: Workload, chosen: argparse.Namespace
) -> dict[str, Any]:
    remote = await RemoteModel.connect(url, model=model)
    try:
        first_two = Workload("warm-up", workload.prompts[:2])
        await run_open_loop(remote.http, remote.name, first_two, body)
        timings, took = await run_open_loop(remote.http, remote.name, workload, body)
    finally:
        await remote.close()
    return summarise(timings, took, chosen.ttft_ms / 1000, chosen.tpot_ms / 1000)


def latencies(workload: Workload, runs: dict[str, list[dict[str, Any]]]) -> list[Comparison]:
    """Inverse latencies, so that a higher ratio is better here too."""
    made = []
    for figure, unit in (("ttft_ms", "1/s first p50"), ("tpot_ms", "1/s token p50")):
        speeds = {
            name: [1000 / one[figure]["p50"] for one in found] for name, found in runs.items()
        }
        made.append(Comparison(workload.name, unit, speeds))
    return made


def body_for(system: System, chosen: argparse.Namespace) -> Body:
    """Token ids where the server takes them; transformers wants text and its own settings."""
    if system.kind != "transformers":
        return exact_body
    tokenizer = Tokenizer.from_file(str(chosen.model / "tokenizer.json"))

    def text_body(model: str, prompt: Prompt) -> dict[str, object]:
        body = exact_body(model, prompt)
        most = prompt.num_output
        settings = f'{{"max_new_tokens": {most}, "min_new_tokens": {most}, "do_sample": false}}'
        del body["ignore_eos"]
        text = tokenizer.decode(list(prompt.ids))
        return {**body, "prompt": text, "generation_config": settings}

    return text_body


def arguments() -> argparse.Namespace:
    """The command line: that of offline.py and the load."""
    parser = arguments_of(__doc__ or "")
    parser.add_argument("--rates", default="1,2,4", help="requests a second; 0 = all at once")
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--ttft-ms", type=float, default=1000.0)
    parser.add_argument("--tpot-ms", type=float, default=50.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
