"""Throughput without HTTP: a workload through an engine of our own."""

from __future__ import annotations

import asyncio
import time

from inferplane.cli.bench.workloads import Prompt, Workload
from inferplane.engine.client import EngineClient
from inferplane.errors import EngineError
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams

__all__ = ["run_offline"]


async def run_offline(client: EngineClient, workload: Workload) -> float:
    """Seconds for the whole workload, at most `concurrency` requests at once.

    Raises the first failure of a request; EngineError when one makes another number of tokens than
    asked.
    """
    places = asyncio.Semaphore(workload.concurrency or len(workload.prompts))
    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for prompt in workload.prompts:
                group.create_task(_run_one(client, prompt, places))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return time.perf_counter() - began


async def _run_one(client: EngineClient, prompt: Prompt, places: asyncio.Semaphore) -> None:
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=prompt.num_output)
    async with places:
        made = 0
        async for _, output in await client.submit(prompt.ids, params):
            made += len(output.token_ids)
            if output.finish is FinishReason.ERROR:
                raise EngineError("engine_dead", f"a request failed: {output.error}")
        if made != prompt.num_output:
            raise EngineError(
                "engine_dead", f"{made} tokens were made, {prompt.num_output} asked for"
            )
