"""`inferplane bench offline` and `bench serve`: run a workload, print or write its figures."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from inferplane import __version__
from inferplane.cli.bench.figures import summarise
from inferplane.cli.bench.workloads import Workload, fixed, mixed, online
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.config import ModelSettings, current_environment
from inferplane.errors import ConfigError

__all__ = ["offline_", "serve_"]

_SCHEMA_VERSION = 1


@with_settings(ModelSettings)
def offline_(
    given: Given,
    *,
    requests: Annotated[int, Parameter(help="How many.")] = 64,
    concurrency: Annotated[int, Parameter(help="At once; 0 = all.")] = 32,
    input_tokens: Annotated[str, Parameter(help="N, or A-B for uniform lengths.")] = "25-256",
    output_tokens: Annotated[str, Parameter(help="N; or A-B, equal to the input's.")] = "25-256",
    repeats: Annotated[int, Parameter(help="Measured runs after one warm-up.")] = 3,
    output: Annotated[Path | None, Parameter(help="Write JSON to this file.")] = None,
) -> int:
    """Measure throughput without HTTP: an engine of our own, greedy, end tokens ignored."""
    resolved = resolve_given(given)
    workload = _offline_workload(requests, concurrency, input_tokens, output_tokens)
    settings = ModelSettings(**resolved.of(ModelSettings))
    seconds, about = asyncio.run(_offline(settings, workload, repeats))
    best = min(seconds)
    result = {
        "benchmark": "offline",
        **_environment(),
        **about,
        "workload": _described(workload),
        "seconds": seconds,
        "output_tokens_per_s": workload.num_output / best,
        "total_tokens_per_s": (workload.num_input + workload.num_output) / best,
        "requests_per_s": len(workload.prompts) / best,
    }
    return _write(result, output)


def _offline_workload(requests: int, concurrency: int, inputs: str, outputs: str) -> Workload:
    into, out = _lengths("--input-tokens", inputs), _lengths("--output-tokens", outputs)
    if into[0] == into[1] and out[0] == out[1]:
        made = fixed(requests, into[0], out[0])
        return Workload(made.name, made.prompts, concurrency)
    if into != out:
        raise ConfigError("--input-tokens and --output-tokens: give two numbers or one range twice")
    return mixed(requests, into, concurrency)


def _lengths(flag: str, text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdigit() and (high or low).isdigit() and 0 < int(low) <= int(high or low)):
        raise ConfigError(f"{flag}: {text!r} is not a length such as 128 or a range such as 25-256")
    return int(low), int(high or low)


async def _offline(
    settings: ModelSettings, workload: Workload, repeats: int
) -> tuple[list[float], dict[str, object]]:
    from inferplane.cli.bench.offline import run_offline  # 150 ms: the engine's client
    from inferplane.cli.serve import fetch_to_run
    from inferplane.cli.startup import show_startup
    from inferplane.config import launch_settings
    from inferplane.engine.client import EngineClient

    client = EngineClient.launch(launch_settings(settings, fetch_to_run(settings)))
    await client.start()
    try:
        info = await show_startup(client, sys.stderr)
        fitting = workload.within(info.embedding_rows)
        seconds = [await run_offline(client, fitting) for _ in range(repeats + 1)][1:]
    finally:
        await client.close()
    about = {"model": settings.model, "engine": _plain(info)}
    return seconds, about


def _plain(info: object) -> object:
    import msgspec  # loaded with the engine's client anyway

    return msgspec.to_builtins(info)


def serve_(
    url: Annotated[
        str, Parameter(help="Any server with the OpenAI API.")
    ] = "http://127.0.0.1:8000",
    *,
    model: Annotated[str, Parameter(help="Served name; default: the server's first.")] = "",
    requests: Annotated[int, Parameter(help="How many.")] = 120,
    rate: Annotated[float, Parameter(help="Poisson arrivals a second; 0 = all at once.")] = 4.0,
    longest: Annotated[int, Parameter(help="Cap on prompt and output lengths.")] = 1024,
    ttft_ms: Annotated[float, Parameter(help="Objective for the first token.")] = 1000.0,
    tpot_ms: Annotated[float, Parameter(help="Objective for each further token.")] = 50.0,
    output: Annotated[Path | None, Parameter(help="Write JSON to this file.")] = None,
) -> int:
    """Measure latency and goodput of a running server: open loop, streaming, greedy.

    The server's key is taken from INFERPLANE_API_KEY.
    """
    workload = online(requests, rate, longest=longest)
    figures = asyncio.run(_serve(url, model, workload, ttft_ms / 1000, tpot_ms / 1000))
    result = {
        "benchmark": "serve",
        **_environment(),
        "url": url,
        "workload": _described(workload),
        **figures,
    }
    return _write(result, output) or (1 if figures["failed"] else 0)


async def _serve(
    url: str, model: str, workload: Workload, ttft_s: float, tpot_s: float
) -> dict[str, object]:
    from inferplane.cli.bench.load import run_open_loop  # 70 ms: the HTTP client
    from inferplane.cli.remote_model import RemoteModel

    key = current_environment().get("INFERPLANE_API_KEY", "")
    remote = await RemoteModel.connect(url, key, model)
    try:
        timings, took = await run_open_loop(remote.http, remote.name, workload)
    finally:
        await remote.close()
    return {"model": remote.name, **summarise(timings, took, ttft_s, tpot_s)}


def _described(workload: Workload) -> dict[str, object]:
    return {
        "name": workload.name,
        "requests": len(workload.prompts),
        "concurrency": workload.concurrency,
        "input_tokens": workload.num_input,
        "output_tokens": workload.num_output,
    }


def _environment() -> dict[str, object]:
    return {
        "schema_version": _SCHEMA_VERSION,
        "inferplane": __version__,
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "processor": platform.machine()},
    }


def _write(result: dict[str, object], output: Path | None) -> int:
    text = json.dumps(result, indent=2)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
    return 0
