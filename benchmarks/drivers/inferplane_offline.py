"""Runs inside an environment with Inferplane: workloads by lines of JSON, through its engine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from inferplane import __version__
from inferplane.cli.bench.offline import run_offline
from inferplane.cli.bench.workloads import Prompt, Workload
from inferplane.config import ModelSettings, launch_settings
from inferplane.engine.client import EngineClient


async def main() -> None:
    """One answer a line; everything else goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    settings = ModelSettings(
        model=start["model"],
        max_model_len=start["max_model_len"],
        max_num_seqs=start["max_num_seqs"],
        **{"dtype": "bfloat16", "prefix_cache": False, **start.get("settings", {})},
    )
    began = time.perf_counter()
    client = EngineClient.launch(launch_settings(settings, Path(start["model"])))
    await client.start()
    info = await client.wait_ready()
    version = f"inferplane {__version__}, {info.device}, {info.dtype}"
    print(json.dumps({"ready_s": time.perf_counter() - began, "version": version}), file=answers)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            work = json.loads(line)
            pairs = zip(work["prompts"], work["outputs"], strict=True)
            prompts = tuple(Prompt(tuple(ids), most) for ids, most in pairs)
            took = await run_offline(client, Workload("", prompts, work["concurrency"]))
            print(json.dumps({"seconds": took}), file=answers)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
